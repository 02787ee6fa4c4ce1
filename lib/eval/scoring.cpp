// SPDX-License-Identifier: Apache-2.0
#include "eval/scoring.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/checked.h"
#include "core/error.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kReferenceBytes = std::int64_t{64} << 20;

std::int64_t row_bytes(const ModelSpec& spec, Device device) {
    const DType dtype = device == Device::kRef ? DType::kF64 : DType::kF32;
    return spec.vocab * static_cast<std::int64_t>(size_of(dtype));
}

std::size_t hidden_bytes(const ModelSpec& spec, Device device, std::int64_t tokens) {
    const DType dtype = device == Device::kRef ? DType::kF64 : DType::kF32;
    return static_cast<std::size_t>(tokens * spec.hidden) * size_of(dtype);
}

[[noreturn]] void refuse(const Runner& runner, std::int64_t window, std::int64_t row) {
    throw Error(Exit::kBadData, escaped(runner.source().file().path(), 1024),
                "gives logits that are not finite after token " + std::to_string(row) +
                    " of window " + std::to_string(window),
                "its weights may be damaged; try --activations f32");
}

}  // namespace

std::int64_t rows_per_piece(const ModelSpec& spec, const RunnerOptions& options,
                            std::int64_t scored, bool with_reference) {
    if (!with_reference && options.kv.policy == "full") return scored;
    return std::clamp<std::int64_t>(kReferenceBytes / row_bytes(spec, options.device), 1, scored);
}

std::int64_t scoring_passes(std::int64_t windows, std::int64_t context, Scored scored,
                            std::int64_t step_tokens, const ScoringSteps& steps) {
    if (steps.group_windows > 0) return ceil_div(windows, steps.group_windows);
    std::int64_t passes = 0, fed = 0;
    for (std::int64_t row = first_scored_row(context, scored); row < context - 1;) {
        row = std::min(row + steps.piece_rows, context - 1);
        passes += ceil_div(row - fed, step_tokens);
        fed = row;
    }
    return windows * passes;
}

WindowScorer::WindowScorer(Runner& model, Runner* reference, const Windows& windows,
                           const ScoringSteps& steps)
    : windows_(windows),
      steps_(steps),
      model_(side_of(model)),
      scores_(static_cast<std::size_t>(windows.rows()) * sizeof(RowScore), Purpose::kLogits) {
    if (reference == nullptr) return;
    reference_ = side_of(*reference);
    const Exec& exec = model.exec();
    rows_ =
        Buffer(static_cast<std::size_t>(steps.piece_rows * row_bytes(model.spec(), exec.device)),
               Purpose::kLogits);
    kept_ = {rows_.data(), exec.dtype(), steps.piece_rows, model.spec().vocab, model.spec().vocab};
}

WindowScorer::Side WindowScorer::side_of(Runner& runner) const {
    const std::int64_t group = std::min(steps_.group_windows, windows_.count());
    const std::int64_t tokens = group * (windows_.context() - 1);
    return {&runner, Buffer(hidden_bytes(runner.spec(), runner.exec().device, tokens),
                            Purpose::kActivations)};
}

View WindowScorer::states_of(Side& side, std::int64_t row, std::int64_t count) const {
    const std::int64_t hidden = side.runner->spec().hidden;
    const View all = {side.states.data(), side.runner->exec().dtype(),
                      count_ * (windows_.context() - 1), hidden, hidden};
    return all.slice_rows(row, count);
}

// The group that begins with `window`, through both models.
bool WindowScorer::sweep(std::int64_t window, const GroupProgress& progress) {
    first_ = window;
    count_ = std::min(steps_.group_windows, windows_.count() - window);
    std::vector<std::span<const Token>> texts;
    for (std::int64_t w = 0; w < count_; ++w) texts.push_back(windows_.inputs(window + w));
    std::vector<Side*> sides;
    if (reference_) sides.push_back(&*reference_);
    sides.push_back(&model_);
    std::int64_t total = 0, before = 0;
    for (const Side* side : sides) total += side->runner->spec().layers;
    for (Side* side : sides) {
        const View states = states_of(*side, 0, count_ * (windows_.context() - 1));
        const bool whole = side->runner->sweep(texts, states, nullptr, [&](std::int64_t layers) {
            return !progress || progress(before + layers, total);
        });
        if (!whole) count_ = 0;
        if (!whole) return false;
        before += side->runner->spec().layers;
    }
    return true;
}

std::optional<std::span<const RowScore>> WindowScorer::score(std::int64_t window,
                                                             const GroupProgress& progress) {
    std::optional<OpenSequence> sequence, reference_sequence;
    if (steps_.group_windows == 0) {
        sequence.emplace(*model_.runner);
        if (reference_) reference_sequence.emplace(*reference_->runner);
    } else if (window < first_ || window >= first_ + count_) {
        if (!sweep(window, progress)) return std::nullopt;
    }
    const auto id = [](const auto& open) {
        return open ? std::optional(open->id()) : std::nullopt;
    };
    const std::int64_t end = windows_.context() - 1;
    std::int64_t fed = 0;
    for (std::int64_t row = windows_.first_row(); row < end; row += steps_.piece_rows) {
        const std::int64_t count = std::min(steps_.piece_rows, end - row);
        if (reference_) {
            deliver(*reference_, id(reference_sequence), window, row, count, fed,
                    [&](std::int64_t first, View logits) { keep_reference(first, logits); });
        }
        deliver(model_, id(sequence), window, row, count, fed,
                [&](std::int64_t first, View logits) {
                    score_piece(window, row + first, logits, first);
                });
        fed = row + count;
    }
    const std::span<const RowScore> scores =
        scores_.span<RowScore>().first(static_cast<std::size_t>(windows_.rows()));
    for (std::size_t r = 0; r < scores.size(); ++r)
        check_finite(window, windows_.first_row() + static_cast<std::int64_t>(r), scores[r]);
    return scores;
}

// Logits of rows [row, row + count) of the window, of which `fed` tokens are in the sequence.
void WindowScorer::deliver(Side& side, std::optional<SeqId> sequence, std::int64_t window,
                           std::int64_t row, std::int64_t count, std::int64_t fed,
                           const Runner::LogitsSink& sink) {
    if (!sequence) {
        const std::int64_t begin = (window - first_) * (windows_.context() - 1);
        side.runner->head(states_of(side, begin + row, count), nullptr, sink);
        return;
    }
    const auto tokens = windows_.inputs(window).subspan(
        static_cast<std::size_t>(fed), static_cast<std::size_t>(row + count - fed));
    side.runner->forward(*sequence, tokens, count, sink);
}

void WindowScorer::keep_reference(std::int64_t first, View logits) {
    model_.runner->exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t r = b; r < e; ++r)
            std::memcpy(kept_.row_bytes(first + r), logits.row_bytes(r),
                        static_cast<std::size_t>(kept_.cols) * size_of(kept_.dtype));
    });
}

// `row`: the window's row of the first logits; `first`: the piece's.
void WindowScorer::score_piece(std::int64_t window, std::int64_t row, View logits,
                               std::int64_t first) {
    RowScore* scores = scores_.as<RowScore>() + (row - windows_.first_row());
    model_.runner->exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t r = b; r < e; ++r) {
            const Token target = windows_.target(window, row + r);
            const View mine = logits.slice_rows(r, 1);
            scores[r] = reference_ ? score_row(mine, kept_.slice_rows(first + r, 1), target)
                                   : score_row(mine, target);
        }
    });
}

void WindowScorer::check_finite(std::int64_t window, std::int64_t row,
                                const RowScore& score) const {
    if (!std::isfinite(score.reference_nll)) refuse(*reference_->runner, window, row);
    if (!std::isfinite(score.nll) || !std::isfinite(score.kld)) refuse(*model_.runner, window, row);
}

std::uint64_t WindowScorer::state_bytes(const ModelSpec& spec, Device device, std::int64_t tokens) {
    return Buffer::charged_bytes(hidden_bytes(spec, device, tokens));
}

void WindowScorer::add_to_plan(Plan& plan, const ModelSpec& spec, Device device,
                               std::int64_t scored_rows, std::int64_t piece_rows,
                               bool with_reference) {
    std::uint64_t bytes =
        Buffer::charged_bytes(static_cast<std::size_t>(scored_rows) * sizeof(RowScore));
    if (with_reference) {
        const std::int64_t rows = piece_rows * row_bytes(spec, device);
        bytes += Buffer::charged_bytes(static_cast<std::size_t>(rows));
        plan.notes.push_back("reference logits: " + std::to_string(piece_rows) + " rows at a time");
    }
    plan.at(Tier::kRam, Purpose::kLogits) += bytes;
}

}  // namespace thimble::eval
