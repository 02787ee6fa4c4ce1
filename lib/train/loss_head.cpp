// SPDX-License-Identifier: Apache-2.0
#include "train/loss_head.h"

#include <algorithm>
#include <vector>

#include "core/checked.h"
#include "ops/gradients.h"
#include "ops/loss.h"

namespace thimble::train {
namespace {

constexpr std::int64_t kTileRows = 4096;  // of the vocabulary
constexpr std::int64_t kCutTokens = 512;  // in a block
// The same where a block's logits are all kept: as many as these bytes hold, in whole steps.
constexpr std::int64_t kChunkBytes = std::int64_t{32} << 20, kChunkStep = 32;

std::int64_t chunk_tokens(std::int64_t vocab) {
    const auto tokens = kChunkBytes / (vocab * static_cast<std::int64_t>(sizeof(float)));
    return std::clamp(tokens / kChunkStep * kChunkStep, kChunkStep, kCutTokens);
}

std::int64_t block_tokens(LossKind kind, std::int64_t tokens, std::int64_t vocab) {
    if (kind == LossKind::kCut) return kCutTokens;
    return kind == LossKind::kChunked ? chunk_tokens(vocab) : std::max(tokens, std::int64_t{1});
}

class LossPass {
  public:
    LossPass(const Exec& exec, const Lease& head, std::size_t norm, std::size_t output,
             const LossProblem& problem)
        : exec_(exec),
          head_(head),
          norm_(norm),
          output_(output),
          problem_(problem),
          linear_(head.matrix(output)) {
        // With exec.dry every token counts as a target: the most memory.
        for (std::int64_t t = 0; t < problem.x.rows; ++t) {
            if (exec.dry || problem.targets[static_cast<std::size_t>(t)] != kNoTarget)
                rows_.push_back(static_cast<std::int32_t>(t));
        }
    }

    LossSums run(GradientSink* sink, View dx) {
        sink_ = sink, dx_ = dx;
        if (sink != nullptr) ops::clear(exec_, dx);
        const std::int64_t count = std::ssize(rows_);
        const std::int64_t block = block_tokens(problem_.kind, count, vocab());
        for (std::int64_t first = 0; first < count; first += block)
            run_block(first, std::min(block, count - first));
        return {sum_, count};
    }

  private:
    [[nodiscard]] View take(std::int64_t rows, std::int64_t cols) const {
        return exec_.workspace->take_view(exec_.dtype(), rows, cols);
    }
    [[nodiscard]] std::int64_t vocab() const { return linear_.out(); }

    // The block's rows of x and, normed, what the head reads.
    void run_block(std::int64_t first, std::int64_t count) {
        const WorkspaceScope scope(*exec_.workspace);
        const std::int64_t hidden = problem_.x.cols;
        const View x = take(count, hidden), h = take(count, hidden);
        stats_ = ops::take_loss_stats(exec_, count);
        block_ = std::span(rows_).subspan(static_cast<std::size_t>(first),
                                          static_cast<std::size_t>(count));
        targets_.clear();
        for (const std::int32_t row : block_)
            targets_.push_back(exec_.dry ? kNoTarget
                                         : problem_.targets[static_cast<std::size_t>(row)]);
        ops::gather_rows(exec_, problem_.x, block_, x);
        ops::rms_norm(exec_, x, head_.vector(norm_), problem_.epsilon, h);
        const bool keeps = problem_.kind != LossKind::kCut;
        const View logits = take(count, keeps ? vocab() : std::min(kTileRows, vocab()));
        ops::MatmulInput input(exec_, h);
        for_tiles([&](std::int64_t v, std::int64_t n) {
            const View z = logits.slice_cols(keeps ? v : 0, n);
            compute(input, v, z);
            ops::add_loss_stats(exec_, {z, v, targets_, stats_});
        });
        sum_ += ops::sum_of_losses(exec_, stats_);
        if (sink_ == nullptr) return;
        const View dh = take(count, hidden);
        for_tiles([&](std::int64_t v, std::int64_t n) {
            const View z = logits.slice_cols(keeps ? v : 0, n);
            if (!keeps) compute(input, v, z);
            ops::loss_gradient(exec_, {z, v, targets_, stats_}, problem_.scale);
            tile_backward(input, z, v, dh);
        });
        block_backward(x, dh);
    }

    template <class Fn>
    void for_tiles(Fn&& fn) const {
        for (std::int64_t v = 0; v < vocab(); v += kTileRows)
            fn(v, std::min(kTileRows, vocab() - v));
    }

    void compute(ops::MatmulInput& input, std::int64_t v, View z) const {
        const WorkspaceScope scope(*exec_.workspace);
        ops::matmul(exec_, input,
                    ops::Matmul{linear_.weight.slice_rows({v, z.cols}), z, std::nullopt, false});
    }

    void tile_backward(ops::MatmulInput& input, View dz, std::int64_t v, View dh) {
        const WorkspaceScope scope(*exec_.workspace);
        ops::MatmulInput d(exec_, dz);
        ops::matmul_t(exec_, d, linear_.weight.slice_rows({v, dz.cols}), dh, v > 0);
        const auto dw = sink_->gradient(output_id());
        if (dw) ops::weight_gradient(exec_, d, input, dw->slice_rows(v, dz.cols));
    }

    // Through the norm to the rows of dx.
    void block_backward(View x, View dh) {
        const WorkspaceScope scope(*exec_.workspace);
        const auto dweight = sink_->gradient(norm_id());
        ops::rms_norm_backward(exec_, x, head_.vector(norm_), problem_.epsilon, dh, dh,
                               dweight ? &*dweight : nullptr);
        ops::embed_backward(exec_, block_, 1, dh, dx_);  // each row to its place
    }

    [[nodiscard]] ParameterId output_id() const {
        return {head_.unit(), ParameterId::Part::kMatrix, output_, 0};
    }
    [[nodiscard]] ParameterId norm_id() const {
        return {head_.unit(), ParameterId::Part::kVector, norm_, 0};
    }

    const Exec& exec_;
    const Lease& head_;
    std::size_t norm_, output_;
    const LossProblem& problem_;
    const Linear& linear_;
    std::vector<std::int32_t> rows_;  // with a target
    GradientSink* sink_ = nullptr;
    View dx_, stats_;
    std::span<const std::int32_t> block_;  // of rows_, and their targets
    std::vector<std::int32_t> targets_;
    double sum_ = 0;
};

}  // namespace

std::int64_t loss_blocks(LossKind kind, std::int64_t tokens, std::int64_t vocab) noexcept {
    return ceil_div(tokens, block_tokens(kind, tokens, vocab));
}

LossSums loss_forward(const Exec& exec, const Lease& head, std::size_t norm, std::size_t output,
                      const LossProblem& problem) {
    return LossPass(exec, head, norm, output, problem).run(nullptr, {});
}

LossSums loss_backward(const Exec& exec, const Lease& head, std::size_t norm, std::size_t output,
                       const LossProblem& problem, GradientSink& sink, View dx) {
    return LossPass(exec, head, norm, output, problem).run(&sink, dx);
}

}  // namespace thimble::train
