#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Times this toolkit beside peers with llama-bench's options: ours, peer, next peer ..., each with a read
# bandwidth probe just before it; prints medians and ours over the best peer's: above 1 ours is faster, but in
# first-token, which counts seconds. Quiet machines only: compare the probes.
#   bench_peers.sh --peer 'NAME=PATH[ ARGS...]'... [--cli 'NAME=PATH[ ARGS...]'...] [--rounds 5] [--threads N]
#                  [--tests prefill,decode,first-token] [--prompt 512] [--decode 128] [--depth 0]
#                  [--cache-type f16] [--text TEXT] [-o result.json] model.gguf...
# A peer is a llama-bench, one more for each setting: --peer 'norepack=x/llama-bench --repack 0'. first-token
# takes seconds from start to end of a process that answers TEXT with one token, its file in the page cache;
# its peers are the --cli, programs with llama-cli's options.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

bin=${THIMBLE_BIN:-$root/build/bin}
output='' rounds=5 threads=$(nproc) prompt=512 decode=128 depth=0 cache=f16 tests=prefill,decode
text='The capital of France is'
models=() benches=() clis=()
while [ $# -gt 0 ]; do
  case $1 in
    --peer) benches+=("$2"); shift 2 ;;
    --cli) clis+=("$2"); shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --tests) tests=$2; shift 2 ;;
    --prompt) prompt=$2; shift 2 ;;
    --decode) decode=$2; shift 2 ;;
    --depth) depth=$2; shift 2 ;;
    --cache-type) cache=$2; shift 2 ;;
    --text) text=$2; shift 2 ;;
    -o) output=$2; shift 2 ;;
    -*) echo "bench_peers.sh: unknown option '$1'" >&2; exit 2 ;;
    *) models+=("$1"); shift ;;
  esac
done
fail() { echo "bench_peers.sh: $1" >&2; exit 2; }

# NAME=PATH[ ARGS...] apart: who, program, and settings as an array
split() {
  [[ $1 == ?*=?* ]] || fail "'$1' is not NAME=PATH[ ARGS...]"
  who=${1%%=*}
  read -ra settings <<<"${1#*=}"
  program=${settings[0]} settings=("${settings[@]:1}")
}

if [ ${#models[@]} -eq 0 ] || [ $((${#benches[@]} + ${#clis[@]})) -eq 0 ]; then
  sed -n '3,11s/^# \{0,2\}//p' "$0" >&2
  exit 2
fi
for peer in "${benches[@]}" "${clis[@]}"; do
  split "$peer"
  [ -x "$program" ] || fail "$who: there is no program '$program'"
  [[ $who != *[^A-Za-z0-9._+-]* && $who != ours ]] || fail "'$who': a name has letters, digits and ._+- only, and is not ours"
done
for kind in benches clis; do
  declare -n named=$kind
  [ -z "$(printf '%s\n' "${named[@]%%=*}" | sort | uniq -d)" ] || fail 'two peers have one name'
done
for test in ${tests//,/ }; do
  case $test in
    prefill | decode) [ ${#benches[@]} -gt 0 ] || fail "$test needs a --peer" ;;
    first-token) [ ${#clis[@]} -gt 0 ] || fail 'first-token needs a --cli' ;;
    *) fail "unknown test '$test'; there are prefill, decode, first-token" ;;
  esac
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# field NAME FILE: the last number stored under "NAME"
field() { sed -n "s/.*\"$1\": *\([-+0-9.eE]*\).*/\1/p" "$2" | tail -n 1; }
median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
list() { paste -sd, "$1"; }

probe() {  # GB/s read by all threads
  "$bin/run" --probe "$scratch/probe.json" --probe-memory 512 --probe-disk 4 --probe-repeats 3 \
    --probe-directory "$scratch" --threads "$threads" --quiet >/dev/null
  field read_bytes_per_second <(sed '/"disk"/,$d' "$scratch/probe.json") |
    awk '{printf "%.1f\n", $1 / 1e9}'
}

# The programs of a peer's directory may have their libraries beside them.
peer_run() {
  LD_LIBRARY_PATH=$(dirname "$program")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$program" "$@" 2>"$scratch/log"
}
takes() { peer_run -h >"$scratch/help" || true; grep -q -- "$1" "$scratch/help" "$scratch/log"; }
seconds() {  # of a command
  local begin=$EPOCHREALTIME
  "$@" >/dev/null 2>"$scratch/log" </dev/null || return
  awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.4f\n", b - a}'
}

ours() {  # test, model
  local args=(-m "$2" --threads "$threads" --cache-type-k "$cache" --cache-type-v "$cache")
  if [ "$1" = first-token ]; then
    seconds "$bin/run" "${args[@]}" -p "$text" -n 1 --quiet
    return
  fi
  args+=(--bench -r 1 -d "$depth" --ctx-size $((depth + prompt + decode)) -o "$scratch/ours.json")
  if [ "$1" = prefill ]; then args+=(-p "$prompt" -n 0); else args+=(-p 0 -n "$decode"); fi
  "$bin/evaluate" "${args[@]}" >"$scratch/log" 2>&1 || return
  field "$1_tokens_per_second" "$scratch/ours.json"
}

theirs() {  # test, model, peer; nothing where the peer cannot measure it
  split "$3"
  local args=(-m "$2" -t "$threads" -ctk "$cache" -ctv "$cache" "${settings[@]}")
  if [ "$1" = first-token ]; then
    for option in -no-cnv --log-disable; do  # else some write a log file where they stand
      if takes "$option"; then args+=("$option"); fi
    done
    seconds peer_run "${args[@]}" -p "$text" -n 1
    return
  fi
  args+=(-r 1 -o json)
  if [ "$1" = prefill ]; then args+=(-p "$prompt" -n 0); else args+=(-p 0 -n "$decode"); fi
  if [ "$depth" -gt 0 ]; then
    if takes --n-depth; then args+=(-d "$depth")
    elif [ "$1" = decode ] && takes ' -gp '; then args+=(-n 0 -gp "$depth,$decode")
    else return 0
    fi
  fi
  peer_run "${args[@]}" >"$scratch/theirs.json" || return
  field avg_ts "$scratch/theirs.json"
}

# One figure into the lists of `who` (the first argument), after the bandwidth then.
measure() {
  local to=$scratch/$1 figure
  probe >>"$to.probe"
  shift
  figure=$("$@") || { tail -n 5 "$scratch/log" >&2; fail "no figure of ${to##*/} for $2 of $3"; }
  if [ -n "$figure" ]; then echo "$figure" >>"$to.list"; fi
}

row='%-32s %-12s %-24s %10s %11s  %s\n'
# shellcheck disable=SC2059
printf "$row" model test who median 'ours / best' 'probe GB/s'
results=''
for model in "${models[@]}"; do
  name=$(basename "$model")
  for test in ${tests//,/ }; do
    peers=("${benches[@]}") faster='a > b' unit=tokens_per_second
    if [ "$test" = first-token ]; then
      peers=("${clis[@]}") faster='a < b' unit=seconds
      cat "$model" >/dev/null
    fi
    rm -f "$scratch"/*.list "$scratch"/*.probe
    for _ in $(seq "$rounds"); do
      measure ours ours "$test" "$model"
      for peer in "${peers[@]}"; do
        measure "${peer%%=*}" theirs "$test" "$model" "$peer"
      done
    done
    best='' best_figure='' rows='' raw=''
    for who in ours "${peers[@]%%=*}"; do
      figure=null
      if [ -e "$scratch/$who.list" ]; then figure=$(median <"$scratch/$who.list"); else : >"$scratch/$who.list"; fi
      if [ "$who" != ours ] && [ "$figure" != null ] && { [ -z "$best" ] ||
        [ "$(awk -v a="$figure" -v b="$best_figure" "BEGIN {print ($faster)}")" = 1 ]; }; then
        best=$who best_figure=$figure
      fi
      rows+="$who $figure $(median <"$scratch/$who.probe")"$'\n'
      raw+="${raw:+,
}   \"$who\": {\"median\": $figure, \"all\": [$(list "$scratch/$who.list")], \"probe_gb_per_second\": [$(list "$scratch/$who.probe")]}"
    done
    ratio=null
    if [ -n "$best" ]; then
      ratio=$(awk -v a="$(median <"$scratch/ours.list")" -v b="$best_figure" 'BEGIN {printf "%.3f", a / b}')
    fi
    while read -r who figure bandwidth; do
      mark=''
      if [ "$who" = ours ]; then mark=$ratio; elif [ "$who" = "$best" ]; then mark=best; fi
      if [ "$figure" = null ]; then figure=-; else figure=$(printf '%.4g' "$figure"); fi
      # shellcheck disable=SC2059
      printf "$row" "$name" "$test" "$who" "$figure" "$mark" "$bandwidth"
    done <<<"${rows%$'\n'}"
    results+="${results:+,
}  {\"model\": \"$name\", \"test\": \"$test\", \"unit\": \"$unit\", \"best_peer\": \"$best\", \"ours_over_best\": $ratio,
$raw}"
  done
done
if [ -n "$output" ]; then
  commands=$(printf '%s\n' "${benches[@]}" "${clis[@]}" | sed 's/[\\"]/\\&/g; s/.*/"&"/' | paste -sd,)
  printf '{"threads": %s, "rounds": %s, "prompt": %s, "decode": %s, "depth": %s, "cache_type": "%s",\n "peers": [%s], "results": [\n%s\n]}\n' \
    "$threads" "$rounds" "$prompt" "$decode" "$depth" "$cache" "$commands" "$results" >"$output"
fi
