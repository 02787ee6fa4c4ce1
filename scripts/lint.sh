#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy (.clang-tidy: few checks) over lib/ and tools/, or over the files given; build-dev must be configured.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f build-dev/compile_commands.json ] || { echo "lint.sh: no build-dev: run scripts/test.sh first" >&2; exit 2; }
files=("$@")
[ ${#files[@]} -gt 0 ] || mapfile -t files < <(git ls-files 'lib/*.cpp' 'tools/*.cpp')
# Findings go to stdout; stderr only counts what the filters have left out.
printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -n 4 clang-tidy -p build-dev --quiet 2>/dev/null
