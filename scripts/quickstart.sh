#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh Debian/Ubuntu machine to the first answer: installs what is missing, builds, fetches two small
# models, quantizes and evaluates them, prints one table and a generation. Arguments go to `recipe run`
# (for example --set text=FILE).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

"$root/scripts/install_deps.sh"
(cd "$root" && cmake --preset release -DTHIMBLE_TESTS=OFF >/dev/null)
cmake --build "$root/build"
models=$("$root/scripts/fetch_models.sh")
exec "$root/build/bin/recipe" run "$root/recipes/quickstart.yaml" --workdir "$root/build/quickstart" \
  --set "models=$models" "$@"
