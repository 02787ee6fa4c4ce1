// SPDX-License-Identifier: Apache-2.0
// What policies that score keys have in common.
#pragma once

#include "kv/policy.h"

namespace thimble {

// Adds to sums[slot] the probabilities of all rows of logits (overwritten), averaged over the heads
// of the group.
void add_probabilities(const Exec& exec, View logits, std::int64_t group, std::span<float> sums);

// Slots of a head in the order of their positions.
[[nodiscard]] std::vector<std::int32_t> by_position(std::span<const std::int32_t> positions);

enum class Pooling : std::uint8_t { kMean, kMax };
// Along tokens, `width` (odd) wide, same length: the mean counts places beyond the ends as zeros.
void pool(std::span<float> values, std::int64_t width, Pooling how,
          std::pmr::memory_resource& memory);

// For each slot before the window, the probabilities that the last `rows` queries of the prompt
// give it: summed over the rows, pooled along tokens, averaged over the heads of the group
// ("SnapKV: LLM Knows What You are Looking for Before Generation", 2024).
void score_by_window(const KvLayerView& view, std::int64_t rows, std::int64_t pool_width,
                     Pooling how, KvScores& scores);
}  // namespace thimble
