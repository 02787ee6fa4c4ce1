// SPDX-License-Identifier: Apache-2.0
// In which order blocks are worth their memory: level by level, the matrices of a level sorted by
// what the step to it gains.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "model/runner.h"

namespace thimble {

// Layer by layer, from the first: costs nothing.
// differs: the paper measures each step. Of orders that need no measuring this was the best by far:
// an error made early is carried through all layers after it, and orders by how much of its
// product's error a block takes away, in all or for each byte, gave twice the perplexity
// (results/bitstack.md).
[[nodiscard]] std::vector<std::int32_t> order_by_layers(std::size_t matrices, std::int64_t levels);

// As in the paper: with every matrix at b blocks one gets b + 1, and the perplexity over `texts` is
// measured; those with the least come first, figures that are no number last. `runner` has all
// blocks in memory. Nothing where `progress` (steps done and in all) said to stop.
using OrderProgress = std::function<bool(std::int64_t done, std::int64_t total)>;
[[nodiscard]] std::optional<std::vector<std::int32_t>> order_by_perplexity(
    Runner& runner, std::span<const std::span<const std::int32_t>> texts,
    const OrderProgress& progress);

// Matrices of one level, best first: by `cost` ascending, of equal ones the first, NaN last.
[[nodiscard]] std::vector<std::int32_t> sorted_by_cost(std::span<const double> cost);

}  // namespace thimble
