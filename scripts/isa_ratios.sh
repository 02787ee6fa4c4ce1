#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What each instruction set is worth: prefill and decode with evaluate --bench --cpu-isa, the levels that this
# machine has taking turns; prints medians, and how many times the speed of the level before that is.
#   isa_ratios.sh [--isa portable,avx2,avx512] [--rounds 3] [--threads N] [--prompt 128] [--decode 32] model.gguf...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

bin=${THIMBLE_BIN:-$root/build/bin}
levels=portable,avx2,avx512 rounds=3 threads=$(nproc) prompt=128 decode=32
models=()
while [ $# -gt 0 ]; do
  case $1 in
    --isa) levels=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --prompt) prompt=$2; shift 2 ;;
    --decode) decode=$2; shift 2 ;;
    -*) echo "isa_ratios.sh: unknown option '$1'" >&2; exit 2 ;;
    *) models+=("$1"); shift ;;
  esac
done
if [ ${#models[@]} -eq 0 ]; then
  sed -n '3,5s/^# \{0,2\}//p' "$0" >&2
  exit 2
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

field() { sed -n "s/.*\"$1\": *\([-+0-9.eE]*\).*/\1/p" "$2" | tail -n 1; }
median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

row='%-32s %-9s %10s %7s %10s %7s\n'
# shellcheck disable=SC2059
printf "$row" model isa prefill ratio decode ratio
for model in "${models[@]}"; do
  rm -f "$scratch"/*
  for _ in $(seq "$rounds"); do
    for isa in ${levels//,/ }; do
      status=0
      "$bin/evaluate" -m "$model" --bench -p "$prompt" -n "$decode" -r 1 --ctx-size $((prompt + decode)) \
        --threads "$threads" --cpu-isa "$isa" -o "$scratch/result.json" >"$scratch/log" 2>&1 || status=$?
      if [ $status -eq 2 ]; then continue; fi  # this machine lacks the level
      if [ $status -ne 0 ]; then tail -n 5 "$scratch/log" >&2; exit 1; fi
      for test in prefill decode; do
        field ${test}_tokens_per_second "$scratch/result.json" >>"$scratch/$isa.$test"
      done
    done
  done
  before=()
  for isa in ${levels//,/ }; do
    if [ ! -e "$scratch/$isa.prefill" ]; then continue; fi
    now=("$(median <"$scratch/$isa.prefill")" "$(median <"$scratch/$isa.decode")")
    ratio() { awk -v a="$1" -v b="${2:-0}" 'BEGIN {if (b > 0) printf "%.2f", a / b}'; }
    # shellcheck disable=SC2059
    printf "$row" "$(basename "$model")" "$isa" "$(printf %.1f "${now[0]}")" "$(ratio "${now[0]}" "${before[0]:-}")" \
      "$(printf %.1f "${now[1]}")" "$(ratio "${now[1]}" "${before[1]:-}")"
    before=("${now[@]}")
  done
  if [ ${#before[@]} -eq 0 ]; then cat "$scratch/log" >&2; exit 2; fi
done
