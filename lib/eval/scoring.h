// SPDX-License-Identifier: Apache-2.0
// Runs a model, or a model and its reference side by side, over the windows of a text and scores
// every row of logits as it is made. With a reference the two take turns: a piece of the window's
// rows through the reference, which are kept, then the same rows through the model; so a whole
// window's logits are never held, and no file of them is needed. Models whose layers are read from
// disk go through a group of windows layer by layer, so that they are read once per group; the
// head follows window by window from the states that are kept. Figures are the same either way.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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

// How a window's rows come about.
struct ScoringSteps {
    std::int64_t piece_rows = 1;     // rows of logits made at once
    std::int64_t group_windows = 0;  // that go through a layer together; 0: none, step by step
};
// Passes over a model's layers that `windows` windows take.
[[nodiscard]] std::int64_t scoring_passes(std::int64_t windows, std::int64_t context, Scored scored,
                                          std::int64_t step_tokens, const ScoringSteps& steps);

class WindowScorer {
  public:
    // `reference` may be null; it must have the same vocabulary. All outlive the scorer.
    WindowScorer(Runner& model, Runner* reference, const Windows& windows,
                 const ScoringSteps& steps);

    // Between layers of a group: layers done and in all, of both models. Whether to go on.
    using GroupProgress = std::function<bool(std::int64_t done, std::int64_t total)>;
    // Scores of the rows that the window scores, in order; valid until the next call. Nothing if
    // `progress` (may be empty) said to stop. Error(kBadData) naming the model's file where a logit
    // is not finite.
    [[nodiscard]] std::optional<std::span<const RowScore>> score(std::int64_t window,
                                                                 const GroupProgress& progress);

    // The states of so many tokens that are kept for one model.
    [[nodiscard]] static std::uint64_t state_bytes(const ModelSpec& spec, Device device,
                                                   std::int64_t tokens);
    // What an instance holds beside the runners and the states.
    static void add_to_plan(Plan& plan, const ModelSpec& spec, Device device,
                            std::int64_t scored_rows, std::int64_t piece_rows, bool with_reference);

  private:
    struct Side {
        Runner* runner = nullptr;
        Buffer states;  // [group tokens, hidden]
    };
    [[nodiscard]] Side side_of(Runner& runner) const;
    [[nodiscard]] bool sweep(std::int64_t window, const GroupProgress& progress);
    [[nodiscard]] View states_of(Side& side, std::int64_t row, std::int64_t count) const;
    void deliver(Side& side, std::optional<SeqId> sequence, std::int64_t window, std::int64_t row,
                 std::int64_t count, std::int64_t fed, const Runner::LogitsSink& sink);
    void keep_reference(std::int64_t first, View logits);
    void score_piece(std::int64_t window, std::int64_t row, View logits, std::int64_t first);
    void check_finite(std::int64_t window, std::int64_t row, const RowScore& score) const;

    const Windows& windows_;
    ScoringSteps steps_;
    Side model_;
    std::optional<Side> reference_;
    std::int64_t first_ = 0, count_ = 0;  // windows whose states are kept
    Buffer scores_;                       // RowScore [scored rows]
    Buffer rows_;                         // the reference's logits of one piece
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
