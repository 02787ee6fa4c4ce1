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

struct StackGain {
    std::uint64_t block_bytes = 0;
    std::vector<double> errors;  // after each block, relative
};
// Of all blocks, their matrices: by how much of its product's error a block takes away for each
// byte. differs: costs nothing, where the paper measures each step.
[[nodiscard]] std::vector<std::int32_t> order_by_error(std::span<const StackGain> matrices);

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
