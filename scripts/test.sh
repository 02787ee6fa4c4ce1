#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds with warnings as errors and runs the tests. --full adds the slow ones.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

select=(-LE slow)
for argument in "$@"; do
  case $argument in
    --full) select=() ;;
    *) echo "test.sh: unknown argument '$argument' (only --full)" >&2; exit 2 ;;
  esac
done

"$root/scripts/install_deps.sh"
"$root/scripts/fetch_models.sh" >/dev/null || echo "test.sh: no example models: the tests that need them will skip" >&2
(cd "$root" && cmake --preset dev >/dev/null)
cmake --build "$root/build-dev"
ctest --test-dir "$root/build-dev" --output-on-failure -j "$(nproc)" "${select[@]}"
