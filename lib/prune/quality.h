// SPDX-License-Identifier: Apache-2.0
// What pruning cost: perplexity of a text before and after, and the divergence from the model as it
// was.
#pragma once

#include <optional>
#include <string>

#include "eval/scoring.h"
#include "io/json.h"
#include "prune/calibration.h"

namespace thimble::prune {

struct Quality {
    eval::PerplexityFigures after;
    eval::DivergenceFigures divergence;
    // Of models whose vocabularies differ, bits for each byte of the text, before and after; then
    // there is no more than that.
    std::optional<eval::Estimate> bits_before, bits_after;
    [[nodiscard]] Json json() const;
    [[nodiscard]] std::string text() const;
};

// Bits that a model needs for each byte of a text, cut into windows of its own tokens.
[[nodiscard]] eval::Estimate measure_bits(Runner& model, const std::string& text,
                                          std::int64_t context, const Progress& progress);
// Both models side by side over the windows of a text.
[[nodiscard]] Quality measure_quality(Runner& pruned, Runner& original,
                                      const eval::Windows& windows, const Progress& progress);
// What that takes besides the runners.
void add_quality_to_plan(Plan& plan, const ModelSpec& spec, const RunnerOptions& options,
                         std::int64_t windows, std::int64_t context);

}  // namespace thimble::prune
