#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Times quantize beside a peer's llama-quantize: ours, theirs, ours, theirs ..., all matrices in one format, and
# prints medians: MB/s of input over wall time, processor seconds (which a busy machine changes less), peak
# memory. Both write to the same directory, each time anew.
#   bench_quantize.sh --llama-quantize PATH [--rounds 5] [--threads "1 2"] [--formats "q8_0 q4_0 q5_0 q4_k q6_k"]
#                     [--directory DIR] model-f16.gguf...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

bin=${THIMBLE_BIN:-$root/build/bin}
peer='' rounds=5 threads='1 2' formats='q8_0 q4_0 q5_0 q4_k q6_k' directory=${TMPDIR:-/tmp}
models=()
while [ $# -gt 0 ]; do
  case $1 in
    --llama-quantize) peer=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --formats) formats=$2; shift 2 ;;
    --directory) directory=$2; shift 2 ;;
    -*) echo "bench_quantize.sh: unknown option '$1'" >&2; exit 2 ;;
    *) models+=("$1"); shift ;;
  esac
done
if [ ! -x "$peer" ] || [ ! -x /usr/bin/time ] || [ ${#models[@]} -eq 0 ]; then
  sed -n '3,7s/^# \{0,2\}//p' "$0" >&2
  echo "needs GNU time as /usr/bin/time" >&2
  exit 2
fi

scratch=$(mktemp -d "$directory/thimble-bench-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
column() { awk -v c="$2" '{print (c == 0) ? $2 + $3 : $c}' "$scratch/$1.list" | median; }  # 0: user + system

ours() {  # model format threads
  "$bin/quantize" -m "$1" -o "$scratch/out.gguf" --format "$2" --pure --threads "$3" --quiet
}
theirs() {
  LD_LIBRARY_PATH=$(dirname "$peer")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    "$peer" --pure "$1" "$scratch/out.gguf" "${2^^}" "$3"
}
export -f ours theirs
export bin peer scratch

row='%-26s %-6s %7s %10s %10s %7s %12s %12s %16s\n'
# shellcheck disable=SC2059
printf "$row" model format threads 'ours MB/s' 'peer MB/s' ratio 'ours cpu s' 'peer cpu s' 'peak MiB'
for model in "${models[@]}"; do
  megabytes=$(awk -v b="$(stat -Lc %s "$model")" 'BEGIN {print b / 1e6}')
  cat "$model" >/dev/null  # both read it from memory
  for format in $formats; do
    for n in $threads; do
      rm -f "$scratch"/*.list
      for _ in $(seq "$rounds"); do
        for side in ours theirs; do
          rm -f "$scratch/out.gguf"
          /usr/bin/time -f '%e %U %S %M' -o "$scratch/time" \
            bash -c "$side \"\$@\"" - "$model" "$format" "$n" >/dev/null 2>"$scratch/err" ||
            { cat "$scratch/err" >&2; exit 1; }
          cat "$scratch/time" >>"$scratch/$side.list"
        done
      done
      a=$(column ours 1) b=$(column theirs 1)
      # shellcheck disable=SC2059
      printf "$row" "$(basename "$model")" "$format" "$n" \
        "$(awk -v m="$megabytes" -v s="$a" 'BEGIN {printf "%.0f", m / s}')" \
        "$(awk -v m="$megabytes" -v s="$b" 'BEGIN {printf "%.0f", m / s}')" \
        "$(awk -v a="$a" -v b="$b" 'BEGIN {printf "%.2f", b / a}')" \
        "$(column ours 0)" "$(column theirs 0)" \
        "$(awk -v a="$(column ours 4)" -v b="$(column theirs 4)" 'BEGIN {printf "%.0f, %.0f", a / 1024, b / 1024}')"
    done
  done
done
