// SPDX-License-Identifier: Apache-2.0
#include "train/loss_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "core/checked.h"
#include "ops/dispatch.h"
#include "ops/gradients.h"

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
                rows_.push_back(t);
        }
    }

    LossSums run(GradientSink* sink, View dx) {
        sink_ = sink, dx_ = dx;
        if (sink != nullptr) clear(dx);
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
    void clear(View v) const {
        if (exec_.dry) return;
        for (std::int64_t r = 0; r < v.rows; ++r)
            std::memset(v.row_bytes(r), 0, static_cast<std::size_t>(v.cols) * size_of(v.dtype));
    }

    // The block's rows of x and, normed, what the head reads.
    void run_block(std::int64_t first, std::int64_t count) {
        const WorkspaceScope scope(*exec_.workspace);
        const std::int64_t hidden = problem_.x.cols;
        const View x = take(count, hidden), h = take(count, hidden);
        // Largest logit so far, sum of exp(logit - largest), target's logit.
        stats_ = exec_.workspace->take_view(DType::kF64, count, 3);
        first_ = first;
        for (std::int64_t r = 0; r < count && !exec_.dry; ++r)
            std::memcpy(x.row_bytes(r), problem_.x.row_bytes(row(r)),
                        static_cast<std::size_t>(hidden) * size_of(x.dtype));
        ops::rms_norm(exec_, x, head_.vector(norm_), problem_.epsilon, h);
        const bool keeps = problem_.kind != LossKind::kCut;
        const View logits = take(count, keeps ? vocab() : std::min(kTileRows, vocab()));
        ops::MatmulInput input(exec_, h);
        reset_stats();
        for_tiles([&](std::int64_t v, std::int64_t n) {
            const View z = logits.slice_cols(keeps ? v : 0, n);
            compute(input, v, z);
            add_to_stats(z, v);
        });
        add_losses(count);
        if (sink_ == nullptr) return;
        const View dh = take(count, hidden);
        for_tiles([&](std::int64_t v, std::int64_t n) {
            const View z = logits.slice_cols(keeps ? v : 0, n);
            if (!keeps) compute(input, v, z);
            make_gradient(z, v);
            tile_backward(input, z, v, dh);
        });
        block_backward(x, dh);
    }

    template <class Fn>
    void for_tiles(Fn&& fn) const {
        for (std::int64_t v = 0; v < vocab(); v += kTileRows)
            fn(v, std::min(kTileRows, vocab() - v));
    }
    [[nodiscard]] std::int64_t row(std::int64_t r) const {
        return rows_[static_cast<std::size_t>(first_ + r)];
    }
    [[nodiscard]] std::int32_t target(std::int64_t r) const {
        return problem_.targets[static_cast<std::size_t>(row(r))];
    }

    void compute(ops::MatmulInput& input, std::int64_t v, View z) const {
        const WorkspaceScope scope(*exec_.workspace);
        ops::matmul(exec_, input,
                    ops::Matmul{linear_.weight.slice_rows({v, z.cols}), z, std::nullopt, false});
    }

    template <class Fn>
    void for_reals(const View& z, Fn&& fn) const {
        if (exec_.dry) return;
        ops::for_rows(exec_, z.rows, 4 * z.cols, [&](std::int64_t r) {
            double* stats = stats_.row<double>(r);
            z.dtype == DType::kF64 ? fn(r, z.row<double>(r), stats) : fn(r, z.row<float>(r), stats);
        });
    }

    void reset_stats() const {
        for (std::int64_t r = 0; r < stats_.rows && !exec_.dry; ++r) {
            double* stats = stats_.row<double>(r);
            stats[0] = -std::numeric_limits<double>::infinity(), stats[1] = 0, stats[2] = 0;
        }
    }

    // Largest element and sum of exp(element - largest).
    std::pair<double, double> top_and_sum(const float* x, std::int64_t n) const {
        float top = 0;
        std::int32_t at = 0;
        double sum = 0;
        ops::kernels(exec_.isa).row_stats(x, n, &top, &at, &sum);
        return {top, sum};
    }
    static std::pair<double, double> top_and_sum(const double* x, std::int64_t n) {
        const double top = *std::max_element(x, x + n);
        double sum = 0;
        for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
        return {top, sum};
    }

    void add_to_stats(View z, std::int64_t v) const {
        for_reals(z, [&](std::int64_t r, const auto* logits, double* stats) {
            const auto [top, sum] = top_and_sum(logits, z.cols);
            const double largest = std::max(stats[0], top);
            const double before = stats[1] > 0 ? stats[1] * std::exp(stats[0] - largest) : 0;
            stats[1] = before + sum * std::exp(top - largest);
            stats[0] = largest;
            const std::int64_t t = target(r) - v;
            if (t >= 0 && t < z.cols) stats[2] = static_cast<double>(logits[t]);
        });
    }

    void add_losses(std::int64_t count) {
        for (std::int64_t r = 0; r < count && !exec_.dry; ++r) {
            const double* stats = stats_.row<double>(r);
            sum_ += stats[0] + std::log(stats[1]) - stats[2];
        }
    }

    void scaled_exp(float* x, std::int64_t n, double shift, double factor) const {
        ops::kernels(exec_.isa).scaled_exp(x, n, static_cast<float>(shift),
                                           static_cast<float>(factor));
    }
    static void scaled_exp(double* x, std::int64_t n, double shift, double factor) {
        for (std::int64_t i = 0; i < n; ++i) x[i] = factor * std::exp(x[i] - shift);
    }

    // Logits to their gradients: scale * (exp(z) / sum - [is target]).
    void make_gradient(View z, std::int64_t v) const {
        for_reals(z, [&](std::int64_t r, auto* logits, const double* stats) {
            using Real = std::remove_pointer_t<decltype(logits)>;
            scaled_exp(logits, z.cols, stats[0], problem_.scale / stats[1]);
            const std::int64_t t = target(r) - v;
            if (t >= 0 && t < z.cols) logits[t] -= static_cast<Real>(problem_.scale);
        });
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
        for (std::int64_t r = 0; r < x.rows && !exec_.dry; ++r)
            std::memcpy(dx_.row_bytes(row(r)), dh.row_bytes(r),
                        static_cast<std::size_t>(dh.cols) * size_of(dh.dtype));
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
    std::vector<std::int64_t> rows_;  // with a target
    GradientSink* sink_ = nullptr;
    View dx_, stats_;
    std::int64_t first_ = 0;
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
