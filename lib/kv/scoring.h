// SPDX-License-Identifier: Apache-2.0
// What policies that score keys have in common.
#pragma once

#include "kv/policy.h"

namespace thimble {

// Adds to sums[slot] the probabilities of all rows of logits (overwritten), averaged over the heads
// of the group.
void add_probabilities(const Exec& exec, View logits, std::int64_t group, std::span<float> sums);

// The sums are the scores.
void score_by_sums(const KvLayerView& view, KvScores& scores);

// Slots of a head in the order of their positions.
[[nodiscard]] std::vector<std::int32_t> by_position(std::span<const std::int32_t> positions);

enum class Pooling : std::uint8_t { kMean, kMax };
// Along tokens, `width` (odd) wide, same length: the mean counts places beyond the ends as zeros.
void pool(std::span<float> values, std::int64_t width, Pooling how,
          std::pmr::memory_resource& memory);

// Options of policies that score by the last queries of a prompt.
struct WindowScoring {
    std::int64_t window = 32, kernel = 5;
    std::string pooling = "mean";

    void visit(OptionVisitor& v);
    void check(std::string_view policy, std::string_view where) const;  // throws Error(kUsage)
    [[nodiscard]] Pooling how() const { return pooling == "max" ? Pooling::kMax : Pooling::kMean; }
};
void visit_kv_budget(OptionVisitor& v, std::string& budget);

// What the window's queries of one query head think of the slots before the window: `order` holds
// these slots by position, `sums` the probabilities, summed over the rows and pooled along tokens.
using WindowHead = std::function<void(
    std::int64_t head_of_group, std::span<const std::int32_t> order, std::span<const float> sums)>;
void for_window_heads(const KvLayerView& view, int kv_head, std::int64_t rows,
                      std::int64_t pool_width, Pooling how, const WindowHead& fn);
// For each slot before the window the mean of that over the heads of the group
// ("SnapKV: LLM Knows What You are Looking for Before Generation", 2024).
void score_by_window(const KvLayerView& view, const WindowScoring& options, KvScores& scores);

}  // namespace thimble
