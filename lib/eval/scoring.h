// SPDX-License-Identifier: Apache-2.0
// Runs a model, or a model and its reference side by side, over the windows of a text and scores
// every row of logits as it is made. With a reference the two take turns: a piece of the window's
// rows through the reference, which are kept, then the same rows through the model; so a whole
// window's logits are never held, and no file of them is needed.
#pragma once

#include <cstdint>
#include <span>

#include "core/plan.h"
#include "eval/metrics.h"
#include "eval/windows.h"
#include "model/runner.h"

namespace thimble::eval {

// Rows of a window that are made at once, of `scored` ones. Policies that drop tokens at the end of
// a step would give other figures with other pieces, so for them the pieces are the same with and
// without a reference.
[[nodiscard]] std::int64_t rows_per_piece(const ModelSpec& spec, const RunnerOptions& options,
                                          std::int64_t scored, bool with_reference);

class WindowScorer {
  public:
    // `reference` may be null; it must have the same vocabulary.
    WindowScorer(Runner& model, Runner* reference, std::int64_t scored_rows,
                 std::int64_t piece_rows);

    // Scores of the rows that the window scores, in order; valid until the next call.
    // Error(kBadData) naming the model's file where a logit is not finite.
    [[nodiscard]] std::span<const RowScore> score(const Windows& windows, std::int64_t window);

    // What an instance holds beside the runners.
    static void add_to_plan(Plan& plan, const ModelSpec& spec, Device device,
                            std::int64_t scored_rows, std::int64_t piece_rows, bool with_reference);

  private:
    void keep_reference(SeqId sequence, std::span<const Token> tokens, std::int64_t count);
    void score_piece(const Windows& windows, std::int64_t window, std::int64_t row, View logits,
                     std::int64_t first);
    void check_finite(std::int64_t window, std::int64_t row, const RowScore& score) const;

    Runner& model_;
    Runner* reference_;
    std::int64_t piece_rows_;
    Buffer scores_;  // RowScore [scored rows]
    Buffer rows_;    // the reference's logits of one piece
    View kept_;
};

// An open sequence of a runner.
class OpenSequence {
  public:
    explicit OpenSequence(Runner& runner) : runner_(runner), id_(runner.kv().open()) {}
    ~OpenSequence() { runner_.kv().close(id_); }
    OpenSequence(const OpenSequence&) = delete;
    OpenSequence& operator=(const OpenSequence&) = delete;
    [[nodiscard]] SeqId id() const noexcept { return id_; }

  private:
    Runner& runner_;
    SeqId id_;
};

}  // namespace thimble::eval
