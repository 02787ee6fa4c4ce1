// SPDX-License-Identifier: Apache-2.0
#include "eval/scoring.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kReferenceBytes = std::int64_t{64} << 20;

std::int64_t row_bytes(const ModelSpec& spec, Device device) {
    const DType dtype = device == Device::kRef ? DType::kF64 : DType::kF32;
    return spec.vocab * static_cast<std::int64_t>(size_of(dtype));
}

// An open sequence of a runner.
class Sequence {
  public:
    explicit Sequence(Runner& runner) : runner_(runner), id_(runner.kv().open()) {}
    ~Sequence() { runner_.kv().close(id_); }
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;
    [[nodiscard]] SeqId id() const noexcept { return id_; }

  private:
    Runner& runner_;
    SeqId id_;
};

class Scorer {
  public:
    Scorer(Runner& model, Runner* reference, const Windows& windows, std::int64_t piece_rows)
        : model_(model),
          reference_(reference),
          windows_(windows),
          piece_rows_(piece_rows),
          sums_(windows.count() * windows.scored_rows(), reference != nullptr),
          scores_(static_cast<std::size_t>(piece_rows) * sizeof(RowScore), Purpose::kLogits) {
        if (reference == nullptr) return;
        const Exec& exec = model.exec();
        rows_ = Buffer(static_cast<std::size_t>(piece_rows * row_bytes(model.spec(), exec.device)),
                       Purpose::kLogits);
        kept_ = {rows_.data(), exec.dtype(), piece_rows, model.spec().vocab, model.spec().vocab};
    }

    void window(std::int64_t w) {
        const Sequence sequence(model_);
        std::optional<Sequence> reference_sequence;
        if (reference_ != nullptr) reference_sequence.emplace(*reference_);
        const std::span<const Token> inputs = windows_.inputs(w);
        const std::int64_t end = windows_.context() - 1;
        std::int64_t fed = 0;
        for (std::int64_t row = windows_.first_row(); row < end; row += piece_rows_) {
            const std::int64_t count = std::min(piece_rows_, end - row);
            const auto tokens = inputs.subspan(static_cast<std::size_t>(fed),
                                               static_cast<std::size_t>(row + count - fed));
            fed = row + count;
            if (reference_ != nullptr) keep_reference(reference_sequence->id(), tokens, count);
            model_.forward(sequence.id(), tokens, count, [&](std::int64_t first, View logits) {
                score(w, row + first, first, logits);
            });
            take(w, row, count);
        }
    }

    [[nodiscard]] ScoreSums& sums() noexcept { return sums_; }

  private:
    void keep_reference(SeqId sequence, std::span<const Token> tokens, std::int64_t count) {
        reference_->forward(sequence, tokens, count, [&](std::int64_t first, View logits) {
            reference_->exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
                for (std::int64_t r = b; r < e; ++r)
                    std::memcpy(kept_.row_bytes(first + r), logits.row_bytes(r),
                                static_cast<std::size_t>(kept_.cols) * size_of(kept_.dtype));
            });
        });
    }

    // Rows [first, first + logits.rows) of the piece; `row` is the window's row of the first.
    void score(std::int64_t w, std::int64_t row, std::int64_t first, View logits) {
        RowScore* scores = scores_.as<RowScore>() + first;
        model_.exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
            for (std::int64_t r = b; r < e; ++r) {
                const Token target = windows_.target(w, row + r);
                const View mine = logits.slice_rows(r, 1);
                scores[r] = reference_ == nullptr
                                ? score_row(mine, target)
                                : score_row(mine, kept_.slice_rows(first + r, 1), target);
            }
        });
    }

    void take(std::int64_t w, std::int64_t row, std::int64_t count) {
        const RowScore* scores = scores_.as<RowScore>();
        for (std::int64_t r = 0; r < count; ++r) {
            const RowScore& s = scores[r];
            if (!std::isfinite(s.reference_nll)) refuse(*reference_, w, row + r);
            if (!std::isfinite(s.nll) || !std::isfinite(s.kld)) refuse(model_, w, row + r);
            sums_.add(s);
        }
    }

    [[noreturn]] static void refuse(const Runner& runner, std::int64_t w, std::int64_t row) {
        throw Error(Exit::kBadData, runner.source().file().path(),
                    "gives logits that are not finite after token " + std::to_string(row) +
                        " of window " + std::to_string(w),
                    "its weights may be damaged; try --activations f32");
    }

    Runner& model_;
    Runner* reference_;
    const Windows& windows_;
    std::int64_t piece_rows_;
    ScoreSums sums_;
    Buffer scores_;  // RowScore [piece_rows]
    Buffer rows_;    // the reference's logits of one piece
    View kept_;
};

}  // namespace

std::int64_t rows_per_piece(const ModelSpec& spec, const RunnerOptions& options,
                            std::int64_t context_tokens, bool with_reference) {
    const std::int64_t all = Windows::scored_rows(context_tokens);
    if (!with_reference && options.kv.policy == "full") return all;
    return std::clamp<std::int64_t>(kReferenceBytes / row_bytes(spec, options.device), 1, all);
}

std::optional<Scores> score_text(Runner& model, Runner* reference, const Windows& windows,
                                 std::int64_t piece_rows, const WindowDone& done) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const auto elapsed = [&] {
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    Scorer scorer(model, reference, windows, piece_rows);
    for (std::int64_t w = 0; w < windows.count(); ++w) {
        scorer.window(w);
        const auto tokens = static_cast<double>((w + 1) * windows.context());
        if (done && !done(w + 1, tokens / elapsed())) return std::nullopt;
    }
    Scores out;
    out.perplexity = scorer.sums().perplexity();
    if (reference != nullptr) out.divergence = scorer.sums().divergence();
    out.seconds = elapsed();
    return out;
}

void add_scoring_to_plan(Plan& plan, const ModelSpec& spec, Device device,
                         std::int64_t context_tokens, std::int64_t windows, std::int64_t piece_rows,
                         bool with_reference) {
    const std::int64_t scored = windows * Windows::scored_rows(context_tokens);
    std::uint64_t bytes =
        ScoreSums::charged_bytes(scored, with_reference) +
        Buffer::charged_bytes(static_cast<std::size_t>(piece_rows) * sizeof(RowScore));
    if (with_reference) {
        const std::int64_t rows = piece_rows * row_bytes(spec, device);
        bytes += Buffer::charged_bytes(static_cast<std::size_t>(rows));
        plan.notes.push_back("reference logits: " + std::to_string(piece_rows) + " rows at a time");
    }
    plan.at(Tier::kRam, Purpose::kLogits) += bytes;
}

}  // namespace thimble::eval
