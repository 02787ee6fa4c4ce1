// SPDX-License-Identifier: Apache-2.0
#include "eval/scoring.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "core/error.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kReferenceBytes = std::int64_t{64} << 20;

std::int64_t row_bytes(const ModelSpec& spec, Device device) {
    const DType dtype = device == Device::kRef ? DType::kF64 : DType::kF32;
    return spec.vocab * static_cast<std::int64_t>(size_of(dtype));
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

WindowScorer::WindowScorer(Runner& model, Runner* reference, std::int64_t scored_rows,
                           std::int64_t piece_rows)
    : model_(model),
      reference_(reference),
      piece_rows_(piece_rows),
      scores_(static_cast<std::size_t>(scored_rows) * sizeof(RowScore), Purpose::kLogits) {
    if (reference == nullptr) return;
    const Exec& exec = model.exec();
    rows_ = Buffer(static_cast<std::size_t>(piece_rows * row_bytes(model.spec(), exec.device)),
                   Purpose::kLogits);
    kept_ = {rows_.data(), exec.dtype(), piece_rows, model.spec().vocab, model.spec().vocab};
}

std::span<const RowScore> WindowScorer::score(const Windows& windows, std::int64_t window) {
    const OpenSequence sequence(model_);
    std::optional<OpenSequence> reference_sequence;
    if (reference_ != nullptr) reference_sequence.emplace(*reference_);
    const std::span<const Token> inputs = windows.inputs(window);
    const std::int64_t end = windows.context() - 1;
    std::int64_t fed = 0;
    for (std::int64_t row = windows.first_row(); row < end; row += piece_rows_) {
        const std::int64_t count = std::min(piece_rows_, end - row);
        const auto tokens = inputs.subspan(static_cast<std::size_t>(fed),
                                           static_cast<std::size_t>(row + count - fed));
        fed = row + count;
        if (reference_ != nullptr) keep_reference(reference_sequence->id(), tokens, count);
        model_.forward(sequence.id(), tokens, count, [&](std::int64_t first, View logits) {
            score_piece(windows, window, row + first, logits, first);
        });
    }
    const std::span<const RowScore> scores =
        scores_.span<RowScore>().first(static_cast<std::size_t>(windows.rows()));
    for (std::size_t r = 0; r < scores.size(); ++r)
        check_finite(window, windows.first_row() + static_cast<std::int64_t>(r), scores[r]);
    return scores;
}

void WindowScorer::keep_reference(SeqId sequence, std::span<const Token> tokens,
                                  std::int64_t count) {
    reference_->forward(sequence, tokens, count, [&](std::int64_t first, View logits) {
        reference_->exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
            for (std::int64_t r = b; r < e; ++r)
                std::memcpy(kept_.row_bytes(first + r), logits.row_bytes(r),
                            static_cast<std::size_t>(kept_.cols) * size_of(kept_.dtype));
        });
    });
}

// `row`: the window's row of the first logits; `first`: the piece's.
void WindowScorer::score_piece(const Windows& windows, std::int64_t window, std::int64_t row,
                               View logits, std::int64_t first) {
    RowScore* scores = scores_.as<RowScore>() + (row - windows.first_row());
    model_.exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t r = b; r < e; ++r) {
            const Token target = windows.target(window, row + r);
            const View mine = logits.slice_rows(r, 1);
            scores[r] = reference_ == nullptr
                            ? score_row(mine, target)
                            : score_row(mine, kept_.slice_rows(first + r, 1), target);
        }
    });
}

void WindowScorer::check_finite(std::int64_t window, std::int64_t row,
                                const RowScore& score) const {
    if (!std::isfinite(score.reference_nll)) refuse(*reference_, window, row);
    if (!std::isfinite(score.nll) || !std::isfinite(score.kld)) refuse(model_, window, row);
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
