// SPDX-License-Identifier: Apache-2.0
// What a change to a model cost: perplexity of a text before and after, and the divergence from the
// model as it was.
#pragma once

#include <optional>
#include <string>

#include "core/progress.h"
#include "eval/scoring.h"
#include "io/json.h"

namespace thimble::eval {

struct Quality {
    PerplexityFigures after;
    DivergenceFigures divergence;
    // Of models whose vocabularies differ, bits for each byte of the text, before and after; then
    // there is no more than that.
    std::optional<Estimate> bits_before, bits_after;
    [[nodiscard]] Json json() const;
    [[nodiscard]] std::string text() const;
};

// Bits that a model needs for each byte of a text, cut into windows of its own tokens.
[[nodiscard]] Estimate measure_bits(Runner& model, const std::string& text, std::int64_t context,
                                    const Progress& progress);
// Both models side by side over the windows of a text.
[[nodiscard]] Quality measure_quality(Runner& changed, Runner& original, const Windows& windows,
                                      const Progress& progress);
// Error(kGateFailed) with `hint` where the mean divergence is more than `most`; 0: no limit.
void check_divergence(const Quality& quality, double most, const char* hint);
// What that takes besides the runners.
void add_quality_to_plan(Plan& plan, const ModelSpec& spec, const RunnerOptions& options,
                         std::int64_t windows, std::int64_t context);

}  // namespace thimble::eval
