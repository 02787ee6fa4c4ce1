#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills `quantize` at random moments, again and again, and checks that what comes out in the end is byte for byte what
# an undisturbed run writes:
#   scripts/kill_loop.sh MODEL RUNS SECONDS [quantize options, e.g. --format q4_k_m --resume]
# Each of RUNS runs is killed with SIGKILL after a random part of SECONDS, unless it is done before.
set -euo pipefail
model=$1 runs=$2 seconds=$3
shift 3
quantize="$(cd "$(dirname "$0")/.." && pwd)/${THIMBLE_BUILD:-build-dev}/bin/quantize"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$quantize" -q -m "$model" -o "$work/whole.gguf" "$@" > /dev/null 2>&1
want=$(sha256sum < "$work/whole.gguf")
rm "$work/whole.gguf"

killed=0 finished=0
compare() {
    [ "$(sha256sum < "$work/out.gguf")" = "$want" ] || { echo "run $run: another file"; exit 1; }
    rm "$work/out.gguf"
    [ -z "$(ls "$work")" ] || { echo "run $run: leftovers: $(ls "$work")"; exit 1; }
    finished=$((finished + 1))
}
for run in $(seq "$runs"); do
    "$quantize" -q -m "$model" -o "$work/out.gguf" "$@" > /dev/null 2> "$work.log" &
    pid=$!
    (sleep "$(awk -v s="$seconds" -v r="$RANDOM" 'BEGIN { print s * r / 32768 }')"; kill -9 "$pid" 2> /dev/null) &
    timer=$!
    code=0
    wait "$pid" || code=$?
    kill "$timer" 2> /dev/null || true
    wait "$timer" 2> /dev/null || true
    case $code in
        0) compare ;;
        137) killed=$((killed + 1)) ;;
        *) echo "run $run: exit code $code: $(cat "$work.log")"; exit 1 ;;
    esac
done
run=last
if [ ! -e "$work/out.gguf" ]; then
    "$quantize" -q -m "$model" -o "$work/out.gguf" "$@" > /dev/null
    compare
fi
rm -f "$work.log"
echo "$runs runs: $killed killed, $finished finished, every output the same: ${want%% *}"
