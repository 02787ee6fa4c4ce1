#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what building and running thimble needs, from Debian/Ubuntu packages. Safe to run again: it
# touches nothing when all is there.  --dev adds what the sanitizer, fuzz, format and lint runs need.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache
  libcli11-dev libyaml-cpp-dev nlohmann-json3-dev libpcre2-dev libssl-dev
  libdnnl-dev           # dense products
  libeigen3-dev         # eigenvalues
  liburing-dev          # the disk while computing
  libopenmpi-dev openmpi-bin  # offload-train by mpirun
  doctest-dev make jq
  libboost-context-dev  # runs the CUDA kernels of the tests on the CPU
  python3 python3-pip   # check scripts; pip fetches the example models
)
dev_packages=(clang clang-format clang-tidy libbenchmark-dev)

dev=no
for argument in "$@"; do
  case $argument in
    --dev) dev=yes packages+=("${dev_packages[@]}") ;;
    -h|--help) sed -n '3,4s/^# //p' "$0"; exit 0 ;;
    *) echo "install_deps.sh: unknown argument '$argument' (only --dev)" >&2; exit 2 ;;
  esac
done

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || { echo "install_deps.sh: needs root or sudo for: $*" >&2; exit 1; }
  sudo "$@"
}
install() {
  local missing=()
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing: ${missing[*]}" >&2
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

install "${packages[@]}"
# libFuzzer and clang's sanitizers live in a package named after clang's version.
if [ $dev = yes ]; then
  version=$(clang --version | sed -n 's/.*version \([0-9]*\).*/\1/p' | head -n 1)
  install "libclang-rt-$version-dev"
fi
