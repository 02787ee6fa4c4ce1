#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Times prefill and decode beside a peer's llama-bench: ours, theirs, ours, theirs ..., each with a read
# bandwidth probe just before it, and prints medians and ratios. Quiet machines only: compare the probes.
#   bench_peers.sh --llama-bench PATH [--rounds 5] [--threads N] [--prompt 512] [--decode 128]
#                  [-o result.json] model.gguf...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

bin=${THIMBLE_BIN:-$root/build/bin}
peer='' output='' rounds=5 threads=$(nproc) prompt=512 decode=128
models=()
while [ $# -gt 0 ]; do
  case $1 in
    --llama-bench) peer=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --prompt) prompt=$2; shift 2 ;;
    --decode) decode=$2; shift 2 ;;
    -o) output=$2; shift 2 ;;
    -*) echo "bench_peers.sh: unknown option '$1'" >&2; exit 2 ;;
    *) models+=("$1"); shift ;;
  esac
done
if [ ! -x "$peer" ] || [ ${#models[@]} -eq 0 ]; then
  sed -n '3,7s/^# \{0,2\}//p' "$0" >&2
  exit 2
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# field NAME FILE: the last number stored under "NAME"
field() { sed -n "s/.*\"$1\": *\([-+0-9.eE]*\).*/\1/p" "$2" | tail -n 1; }
median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

probe() {  # GB/s read by all threads
  "$bin/run" --probe "$scratch/probe.json" --probe-memory 512 --probe-disk 4 --probe-repeats 3 \
    --probe-directory "$scratch" --threads "$threads" --quiet >/dev/null
  field read_bytes_per_second <(sed '/"disk"/,$d' "$scratch/probe.json") |
    awk '{printf "%.1f\n", $1 / 1e9}'
}

ours() {  # model, prompt tokens, decode tokens
  "$bin/evaluate" -m "$1" --bench -p "$2" -n "$3" -r 1 --threads "$threads" -o "$scratch/ours.json" >/dev/null 2>&1
  if [ "$2" -gt 0 ]; then field prefill_tokens_per_second "$scratch/ours.json"
  else field decode_tokens_per_second "$scratch/ours.json"; fi
}

theirs() {
  LD_LIBRARY_PATH=$(dirname "$peer")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    "$peer" -m "$1" -p "$2" -n "$3" -r 1 -t "$threads" -o json >"$scratch/theirs.json" 2>/dev/null
  field avg_ts "$scratch/theirs.json"
}

row='%-44s %-8s %10s %10s %7s   %s\n'
# shellcheck disable=SC2059
printf "$row" model test ours peer ratio 'probe GB/s (ours, peer)'
results=''
for model in "${models[@]}"; do
  for test in prefill decode; do
    if [ $test = prefill ]; then sizes="$prompt 0"; else sizes="0 $decode"; fi
    rm -f "$scratch"/*.list
    for _ in $(seq "$rounds"); do
      for side in ours theirs; do
        probe >>"$scratch/$side.probe.list"
        # shellcheck disable=SC2086
        $side "$model" $sizes >>"$scratch/$side.list"
      done
    done
    a=$(median <"$scratch/ours.list") b=$(median <"$scratch/theirs.list")
    pa=$(median <"$scratch/ours.probe.list") pb=$(median <"$scratch/theirs.probe.list")
    ratio=$(awk -v a="$a" -v b="$b" 'BEGIN {printf "%.2f", a / b}')
    name=$(basename "$model")
    # shellcheck disable=SC2059
    printf "$row" "$name" $test "$(printf %.1f "$a")" "$(printf %.1f "$b")" "$ratio" "$pa, $pb"
    list() { paste -sd, "$1"; }
    results+="${results:+,
}  {\"model\": \"$name\", \"test\": \"$test\", \"ours\": $a, \"peer\": $b, \"ratio\": $ratio,
   \"ours_all\": [$(list "$scratch/ours.list")], \"peer_all\": [$(list "$scratch/theirs.list")],
   \"probe_gb_per_second\": {\"ours\": [$(list "$scratch/ours.probe.list")], \"peer\": [$(list "$scratch/theirs.probe.list")]}}"
  done
done
if [ -n "$output" ]; then
  printf '{"threads": %s, "rounds": %s, "prompt": %s, "decode": %s, "results": [\n%s\n]}\n' \
    "$threads" "$rounds" "$prompt" "$decode" "$results" >"$output"
fi
