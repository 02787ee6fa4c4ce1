#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the seeds of the fuzz target model that hold weights in planes: make_corpus_planes.sh BIN, where the tools are in BIN.
set -euo pipefail
bin=$(realpath "$1")
cd "$(dirname "$0")/corpus/model"
while read -r seed format; do
  "$bin/quantize" q4_0 -o "$seed.gguf" --format "$format" --allow-requantize --pure --overwrite -q >/dev/null
  mv "$seed.gguf" "$seed"
done <<'END'
affine3 int3
affine4_f32 int4:scale=f32
affine8_symmetric int8:symmetric=true
nf4 nf4
bitmod3 bitmod3
bitmod4 bitmod4
bfp bfp12
bipolar bipolar:bits=3
fp8 fp8
mxfp8 mxfp8
nvfp4 nvfp4
END
# Coded exponents of both kinds of float that pay here.
for type in bf16 f32; do
  "$bin/quantize" q4_0 -o plain.gguf --format "$type" --allow-requantize --pure --overwrite -q >/dev/null
  "$bin/compress" plain.gguf -o coded.gguf --overwrite -q >/dev/null
  mv coded.gguf "coded_$type"
  rm plain.gguf
done
# Matrices in blocks of which any number may be loaded.
"$bin/quantize" q4_0 -o plain.gguf --format f32 --allow-requantize --pure --overwrite -q >/dev/null
"$bin/compress" --method bitstack plain.gguf -o stacked.gguf --levels 3 --rank 4 --overwrite -q >/dev/null 2>&1
mv stacked.gguf bitstack
rm plain.gguf
