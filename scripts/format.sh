#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats every source file in place; with --check only says which would change (exit 1).
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(-i)
[ "${1:-}" = --check ] && mode=(--dry-run --Werror)
git ls-files -z '*.cpp' '*.h' '*.cu' '*.cuh' | xargs -0 clang-format "${mode[@]}"
