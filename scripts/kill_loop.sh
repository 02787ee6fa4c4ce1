#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills `quantize` at random moments, again and again, and checks that what comes out in the end is byte for byte what
# an undisturbed run writes:
#   scripts/kill_loop.sh MODEL RUNS SECONDS [quantize options, e.g. --format q4_k_m --resume --split-max-size 20M]
# Each of RUNS runs is killed with SIGKILL after a random part of SECONDS, unless it is done before.
set -euo pipefail
model=$1 runs=$2 seconds=$3
shift 3
quantize="$(cd "$(dirname "$0")/.." && pwd)/${THIMBLE_BUILD:-build-dev}/bin/quantize"
work=$(mktemp -d)
trap 'rm -rf "$work" "$work.log"' EXIT

# One file, several or a directory: all that lies in $work, with their sums.
sums() { (cd "$work" && find . -type f -print0 | sort -z | xargs -r0 sha256sum); }
whole() { [ -n "$(ls "$work")" ] && [ -z "$(find "$work" -name '*.partial*')" ]; }

"$quantize" -q -m "$model" -o "$work/out" "$@" > /dev/null 2>&1
want=$(sums)
rm -rf "${work:?}"/*

killed=0 finished=0
compare() {
    [ "$(sums)" = "$want" ] || { printf 'run %s: other files:\n%s\nexpected:\n%s\n' "$run" "$(sums)" "$want"; exit 1; }
    rm -rf "${work:?}"/*
    finished=$((finished + 1))
}
for run in $(seq "$runs"); do
    "$quantize" -q -m "$model" -o "$work/out" "$@" > /dev/null 2> "$work.log" &
    pid=$!
    (sleep "$(awk -v s="$seconds" -v r="$RANDOM" 'BEGIN { print s * r / 32768 }')"; kill -9 "$pid" 2> /dev/null) &
    timer=$!
    code=0
    wait "$pid" 2> /dev/null || code=$?
    kill "$timer" 2> /dev/null || true
    wait "$timer" 2> /dev/null || true
    case $code in
        0) compare ;;
        137) killed=$((killed + 1)); if whole; then compare; fi ;;
        *) echo "run $run: exit code $code: $(cat "$work.log")"; exit 1 ;;
    esac
done
run=last
if [ "$code" != 0 ] && [ "$finished" != "$runs" ]; then
    whole || "$quantize" -q -m "$model" -o "$work/out" "$@" > /dev/null
    compare
fi
echo "$runs runs: $killed killed, $finished finished, every output the same: $(sha256sum <<< "$want" | cut -c 1-16)"
