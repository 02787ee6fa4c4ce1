#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What nvcc makes of each CUDA kernel, per target: registers, spilled bytes, static shared memory, the
# threads of its launch bounds, and the share of a multiprocessor's warps that these let run at once (dynamic
# shared memory is not known here and not counted). Needs no GPU.
#   cuda_report.sh [--targets "80 86 89 90"] [--sass] [--jobs 2] [KERNEL.cu...]
#     --targets  compute capabilities to compile for
#     --sass     also count, from cuobjdump, instructions that the kernels are built around: 128-bit global
#                loads (LDG.E.128), tensor cores (HMMA, IMMA, BMMA) and dp4a (IDP)
#     --jobs     nvcc processes at once
# Files: all of kernels/cuda unless named. Exit codes: 0; 1 if a kernel spills or does not compile; 2 for a
# wrong command line; 77 if nvcc (or, for --sass, cuobjdump) is missing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
targets="80 86 89 90" sass=0 jobs=2 files=()
while (($#)); do
  case $1 in
    -h|--help) sed -n '3,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --targets|--jobs)
      [[ $# -gt 1 ]] || { echo "cuda_report.sh: $1 needs a value; see --help" >&2; exit 2; }
      [[ $1 == --jobs ]] && jobs=$2 || targets=$2
      shift 2 ;;
    --sass) sass=1; shift ;;
    -*) echo "cuda_report.sh: unknown option $1; see --help" >&2; exit 2 ;;
    *) [[ -f $1 ]] || { echo "cuda_report.sh: no file $1" >&2; exit 2; }
      files+=("$1"); shift ;;
  esac
done
for target in $targets; do
  [[ $target =~ ^(80|86|87|89|90)$ ]] ||
    { echo "cuda_report.sh: target $target is none of 80, 86, 87, 89, 90" >&2; exit 2; }
done
need() {
  command -v "$1" >/dev/null || { echo "cuda_report.sh: no $1 on PATH: $2" >&2; exit 77; }
}
need nvcc "install the CUDA toolkit to see what the kernels compile to"
need ptxas "it lies beside nvcc"
((sass)) && need cuobjdump "a part of the CUDA toolkit (pip: nvidia-cuda-cuobjdump)"
((${#files[@]})) || files=("$root"/kernels/cuda/*.cu)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile() {  # FILE: to PTX and on to machine code for each target; $work/NAME.{ptx,log,sass}
  local name target part cache=()
  name=$(basename "$1" .cu)
  command -v ccache >/dev/null && cache=(ccache)
  for target in $targets; do
    part=$work/$name.$target
    if ! { "${cache[@]}" nvcc -std=c++20 -O2 --expt-relaxed-constexpr -I"$root" -arch="compute_$target" -ptx "$1" \
        -o "$part.ptx" && ptxas -v -arch="sm_$target" "$part.ptx" -o "$part.cubin"; } >"$part.log" 2>&1; then
      echo "cuda_report.sh: $1 does not compile for sm_$target:" >&2
      grep -E 'error|fatal' "$part.log" >&2 || cat "$part.log" >&2
      touch "$work/failed"
    elif ((sass)) && ! cuobjdump -sass "$part.cubin" >"$part.sass"; then
      touch "$work/failed"
    fi
  done
}
export -f compile
export root work targets sass
printf '%s\0' "${files[@]}" | nice -n 5 xargs -0 -P "$jobs" -I{} bash -c 'compile "$1"' _ {}

# One line per kernel and target, tab-separated; names are filtered afterwards.
cat >"$work/report.awk" <<'AWK'
function occupancy(target, registers, shared, threads,    warps_most, blocks_most, shared_most, warps, by, n, m) {
  warps_most = (target == 86 || target == 89) ? 48 : 64
  blocks_most = target == 86 ? 16 : target == 89 ? 24 : target == 87 ? 16 : 32
  shared_most = (target == 86 || target == 89) ? 100 : target == 90 ? 228 : 164
  warps = int((threads + 31) / 32)
  n = int(warps_most / warps); by = "threads"
  if (blocks_most < n) { n = blocks_most; by = "blocks" }
  m = int(4 * int(16384 / (256 * int((registers * 32 + 255) / 256))) / warps)
  if (m < n) { n = m; by = "registers" }
  m = int(shared_most * 1024 / (128 * int((shared + 1024 + 127) / 128)))
  if (m < n) { n = m; by = "shared" }
  return sprintf("%d%%\t%s", int(100 * n * warps / warps_most + 0.5), by)
}
FNR == 1 { kind = FILENAME; sub(/.*\./, "", kind) }
kind == "ptx" && match($0, /\.entry [A-Za-z0-9_$]+/) { entry = substr($0, RSTART + 7, RLENGTH - 7) }
kind == "ptx" && $1 == ".maxntid" { gsub(/,/, " "); threads[entry] = $2 * ($3 == "" ? 1 : $3) * ($4 == "" ? 1 : $4) }
kind == "sass" && /code for sm_/ { target = $NF; sub(/.*sm_/, "", target); target += 0 }
kind == "sass" && /Function :/ { entry = $NF }
kind == "sass" && /LDG\.E\.([A-Z0-9]+\.)*128/ { loads[entry, target]++ }
kind == "sass" && /[BHI]MMA\./ { mma[entry, target]++ }
kind == "sass" && /IDP\./ { dots[entry, target]++ }
kind == "log" && /Compiling entry function/ { split($0, part, "'"); entry = part[2]; target = substr(part[4], 4) + 0 }
kind == "log" && /bytes spill stores/ { spilled = $5 + $9 }
kind == "log" && /Used [0-9]+ registers/ {
  match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5) + 0
  shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH) + 0 : 0
  t = entry in threads ? threads[entry] : 0
  printf "%s\t%d\t%d\t%d\t%d\t%s\t%s", entry, target, registers, spilled, shared, t ? t : "-", t ? occupancy(target, registers, shared, t) : "-\t-"
  if (sass) printf "\t%d\t%d\t%d", loads[entry, target], mma[entry, target], dots[entry, target]
  printf "\n"
}
AWK
shorten() {
  c++filt | sed -E 's/\(anonymous namespace\):://g; s/thimble::cuda:://g; s/thimble:://g; s/^void //; s/\([A-Z][A-Za-z0-9]*\)([0-9]+)/\1/g; s/^([^\t(]*)\([^\t]*\)/\1/'
}
heads="kernel\ttarget\tregisters\tspilled\tshared\tthreads\toccupancy\tbound by"
((sass)) && heads+="\tLDG.128\tMMA\tIDP"
for file in "${files[@]}"; do
  name=$(basename "$file" .cu)
  for target in $targets; do
    inputs=()
    for kind in ptx sass log; do
      [[ -s $work/$name.$target.$kind ]] && inputs+=("$work/$name.$target.$kind")
    done
    ((${#inputs[@]})) && awk -v sass="$sass" -f "$work/report.awk" "${inputs[@]}" || true
  done | shorten | sort -t$'\t' -k1,1V -k2,2n
done >"$work/table"
{ printf '%b\n' "$heads"; cat "$work/table"; } | column -t -s $'\t'
spills=$(awk -F '\t' '$4 > 0' "$work/table" | wc -l)
echo "$(wc -l <"$work/table") kernels and targets, $spills with spills"
[[ $spills == 0 && ! -e $work/failed ]]
