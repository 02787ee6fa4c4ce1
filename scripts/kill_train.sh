#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills `offload-train` at random moments, again and again, goes on from its state each time, and checks that what
# comes out in the end is byte for byte what an undisturbed run leaves:
#   scripts/kill_train.sh MODEL DATA KILLS SECONDS [offload-train options, e.g. --steps 60 --save-every 2 --method full]
# Each run gets SIGKILL or SIGTERM after a random part of SECONDS. One that is done before is compared, and another
# begins, until there have been KILLS signals.
set -euo pipefail
model=$1 data=$2 kills=$3 seconds=$4
shift 4
train="$(cd "$(dirname "$0")/.." && pwd)/${THIMBLE_BUILD:-build-dev}/bin/offload-train"
work=$(mktemp -d)
trap 'rm -rf "$work" "$work.log"' EXIT

# A file or a directory: all that lies in $work, with their sums.
sums() { (cd "$work" && find . -type f -print0 | sort -z | xargs -r0 sha256sum); }
command=("$train" -q -m "$model" --data "$data" -o "$work/out.gguf" "$@")
undisturbed() { "${command[@]}" > /dev/null 2> "$work.log" || { cat "$work.log"; exit 1; }; }

undisturbed
want=$(sums)
rm -rf "${work:?}"/*

killed=0 terminated=0 resumed=0 finished=0 at=0
compare() {
    rm -f "$work"/*.state.safetensors "$work"/*.partial  # of a kill between the output and their removal
    [ "$(sums)" = "$want" ] || { printf 'after %s signals: other files:\n%s\nexpected:\n%s\n' "$at" "$(sums)" "$want"; exit 1; }
    rm -rf "${work:?}"/*
    finished=$((finished + 1))
}
while [ "$at" -lt "$kills" ]; do
    [ -e "$work/out.gguf.state.safetensors" ] && resumed=$((resumed + 1))
    "${command[@]}" > /dev/null 2> "$work.log" &
    pid=$!
    signal=$([ $((RANDOM % 2)) = 0 ] && echo KILL || echo TERM)
    (sleep "$(awk -v s="$seconds" -v r="$RANDOM" 'BEGIN { print s * r / 32768 }')"; kill -"$signal" "$pid" 2> /dev/null) &
    timer=$!
    code=0
    wait "$pid" 2> /dev/null || code=$?
    kill "$timer" 2> /dev/null || true
    wait "$timer" 2> /dev/null || true
    case $code in
        0) compare ;;
        137) killed=$((killed + 1)) at=$((at + 1)) ;;
        75 | 143) terminated=$((terminated + 1)) at=$((at + 1)) ;;
        *) echo "after $at signals: exit code $code: $(cat "$work.log")"; exit 1 ;;
    esac
    if [ "$code" != 0 ] && [ -e "$work/out.gguf" ]; then compare; fi
done
undisturbed
compare
echo "$at signals ($killed KILL, $terminated TERM), $resumed runs went on from a state, $finished finished, every output" \
    "the same: $(sha256sum <<< "$want" | cut -c 1-16)"
