// SPDX-License-Identifier: Apache-2.0
// Collects an importance matrix: texts go through a model layer by layer, and each matrix's input
// is squared and summed by column. Sums are doubles, added in the order of the tokens, each column
// by one thread: they depend on neither threads, budget nor chunks.
// differs from llama-imatrix: it adds in single precision, and matrices of quantised models read
// activations as rounded by their own kernels.
#pragma once

#include <functional>
#include <optional>

#include "calib/importance.h"
#include "core/plan.h"
#include "model/block.h"
#include "model/runner.h"

namespace thimble {

using CalibrationTexts = std::vector<std::span<const std::int32_t>>;

// Texts [first, second) that pass through a layer together: as many as `most` tokens allow, at
// least one; 0: all.
[[nodiscard]] std::vector<std::pair<std::size_t, std::size_t>> groups_of(
    const CalibrationTexts& texts, std::int64_t most);
[[nodiscard]] std::int64_t tokens_of(std::span<const std::span<const std::int32_t>> texts);

struct CollectOptions {
    bool process_output = false;    // also the input of output.weight
    std::int64_t group_tokens = 0;  // most tokens that go through a layer together; 0: all
};

// After each layer of each group: layers done and in all. Returns whether to go on.
using CollectProgress = std::function<bool(std::int64_t done, std::int64_t total)>;

// Layers first, so that each is at hand once per group of texts. Error(kBadData) naming the matrix
// whose input was not finite; nullopt when `progress` said to stop. The result's datasets and
// chunks are the caller's.
[[nodiscard]] std::optional<ImportanceMatrix> collect_importance(Runner& runner, Team& team,
                                                                 const CalibrationTexts& texts,
                                                                 const CollectOptions& options,
                                                                 const CollectProgress& progress);

// What it holds beside the runner, which is in the plan already: sums, and the states of `tokens`
// tokens between two layers.
void add_collection_to_plan(Plan& plan, const ModelSource& source, Device device,
                            std::int64_t tokens, bool process_output);

}  // namespace thimble
