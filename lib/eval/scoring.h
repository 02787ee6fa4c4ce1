// SPDX-License-Identifier: Apache-2.0
// Runs a model, or a model and its reference side by side, over the windows of a text and scores
// every row of logits as it is made. With a reference the two take turns: a piece of the window's
// rows through the reference, which are kept, then the same rows through the model; so a whole
// window's logits are never held, and no file of them is needed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "core/plan.h"
#include "eval/metrics.h"
#include "eval/windows.h"
#include "model/runner.h"

namespace thimble::eval {

// Rows of a window that are made at once. Policies that drop tokens at the end of a step would give
// other figures with other pieces, so for them the pieces are the same with and without a
// reference.
[[nodiscard]] std::int64_t rows_per_piece(const ModelSpec& spec, const RunnerOptions& options,
                                          std::int64_t context_tokens, bool with_reference);

struct Scores {
    PerplexityFigures perplexity;
    std::optional<DivergenceFigures> divergence;
    double seconds = 0;
};
// After each window: windows done and tokens read per second so far. Returns whether to go on.
using WindowDone = std::function<bool(std::int64_t done, double tokens_per_second)>;

// `reference` may be null; it must have the same vocabulary. Error(kBadData) naming the model's
// file where a logit is not finite; nullopt if `done` said to stop.
[[nodiscard]] std::optional<Scores> score_text(Runner& model, Runner* reference,
                                               const Windows& windows, std::int64_t piece_rows,
                                               const WindowDone& done);

// What score_text holds beside the runners.
void add_scoring_to_plan(Plan& plan, const ModelSpec& spec, Device device,
                         std::int64_t context_tokens, std::int64_t windows, std::int64_t piece_rows,
                         bool with_reference);

}  // namespace thimble::eval
