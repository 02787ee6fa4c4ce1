// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "format/weight_format.h"
#include "kernels/ref/ref.h"
#include "ops/cuda_matrix.h"
#include "ops/dispatch.h"
#include "ops/on_cuda.h"
#include "ops/op_clock.h"

namespace thimble::ops {

void copy(const Exec& exec, View from, View to) {
    const Timed timed(exec, "copy");
    require_view(exec, from, to.rows, to.cols, "copy");
    if (is_cuda(exec)) return on_cuda::copy(exec, from, to);
    if (exec.dry) return;
    for (std::int64_t r = 0; r < from.rows; ++r)
        std::memcpy(to.row_bytes(r), from.row_bytes(r),
                    static_cast<std::size_t>(from.cols) * size_of(from.dtype));
}

void copy_to_host(const Exec& exec, View from, View to) {
    require_view(exec, from, to.rows, to.cols, "copy_to_host");
    if (!is_cuda(exec)) return copy(exec, from, to);
    if (from.rows == 0 || exec.dry) return;
    on_device([&] {
        cuda::copy_rows_to_host(exec.cuda->compute(), on_cuda::rows_of(from, to));
        exec.cuda->compute().wait();
    });
}

void copy_to_device(const Exec& exec, View from, View to) {
    require_view(exec, from, to.rows, to.cols, "copy_to_device");
    if (!is_cuda(exec)) return copy(exec, from, to);
    if (from.rows == 0 || exec.dry) return;
    on_device([&] {
        cuda::copy_rows_to_device(exec.cuda->compute(), on_cuda::rows_of(from, to));
        exec.cuda->compute().wait();
    });
}

void rms_norm(const Exec& exec, View x, View weight, double eps, View out) {
    const Timed timed(exec, "rms_norm");
    require_view(exec, weight, 1, x.cols, "rms_norm");
    require_view(exec, out, x.rows, x.cols, "rms_norm");
    if (is_cuda(exec)) return on_cuda::rms_norm(exec, x, weight, eps, out);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    for_rows(exec, x.rows, x.cols, [&](std::int64_t r) {
        if (is_ref(exec)) {
            ref::rms_norm(x.row<double>(r), weight.row<double>(0), x.cols, eps, out.row<double>(r));
        } else {
            table.rms_norm(x.row<float>(r), weight.row<float>(0), x.cols, static_cast<float>(eps),
                           out.row<float>(r));
        }
    });
}

void add(const Exec& exec, View a, View b, View out) {
    const Timed timed(exec, "add");
    require_view(exec, b, a.rows, a.cols, "add");
    require_view(exec, out, a.rows, a.cols, "add");
    if (is_cuda(exec)) return on_cuda::add(exec, a, b, out);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    for_rows(exec, a.rows, a.cols / 4, [&](std::int64_t r) {
        if (!is_ref(exec)) {
            return table.add(a.row<float>(r), b.row<float>(r), a.cols, out.row<float>(r));
        }
        for (std::int64_t i = 0; i < a.cols; ++i)
            out.row<double>(r)[i] = a.row<double>(r)[i] + b.row<double>(r)[i];
    });
}

void scale(const Exec& exec, View x, double factor) {
    const Timed timed(exec, "scale");
    require_view(exec, x, x.rows, x.cols, "scale");
    if (is_cuda(exec)) return on_cuda::scale(exec, x, factor);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    for_rows(exec, x.rows, x.cols / 4, [&](std::int64_t r) {
        if (!is_ref(exec)) return table.scale(x.row<float>(r), static_cast<float>(factor), x.cols);
        for (std::int64_t i = 0; i < x.cols; ++i) x.row<double>(r)[i] *= factor;
    });
}

void glu(const Exec& exec, Gate act, View gate, View up, View out) {
    const Timed timed(exec, "glu");
    require_view(exec, up, gate.rows, gate.cols, "glu");
    require_view(exec, out, gate.rows, gate.cols, "glu");
    if (is_cuda(exec)) return on_cuda::glu(exec, act, gate, up, nullptr, out);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    const auto kernel = act == Gate::kSilu ? table.silu_glu : table.gelu_glu;
    for_rows(exec, gate.rows, gate.cols * 2, [&](std::int64_t r) {
        if (!is_ref(exec)) {
            return kernel(gate.row<float>(r), up.row<float>(r), gate.cols, out.row<float>(r));
        }
        for (std::int64_t i = 0; i < gate.cols; ++i) {
            const double g = gate.row<double>(r)[i];
            out.row<double>(r)[i] =
                (act == Gate::kSilu ? ref::silu(g) : ref::gelu_tanh(g)) * up.row<double>(r)[i];
        }
    });
}

void embed(const Exec& exec, const PackedView& table, std::span<const std::int32_t> tokens,
           double factor, View out) {
    const auto rows = static_cast<std::uint64_t>(table.shape.rows);
    const Timed timed(exec, "embed", table.bytes() / rows * tokens.size());
    require_view(exec, out, static_cast<std::int64_t>(tokens.size()), table.shape.cols, "embed");
    for (const std::int32_t token : tokens)
        require(token >= 0 && token < table.shape.rows, "embed", "a token is out of range");
    if (is_cuda(exec)) return on_cuda::embed(exec, table, tokens, factor, out);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        decode_rows(exec, table, {tokens[t], 1}, out.slice_rows(static_cast<std::int64_t>(t), 1));
    }
    if (factor != 1.0) scale(exec, out, factor);
}

namespace {

// Cosines and sines of one position's angles. All layers of a step, their queries and keys, turn by
// the same ones: a thread keeps the last.
class RopeAngles {
  public:
    static constexpr std::int64_t kMostPairs = 512;
    double cosine[kMostPairs], sine[kMostPairs];
    float cosine_f32[kMostPairs], sine_f32[kMostPairs];

    void set(const Rope& rope, std::int64_t position) {
        const std::int64_t half = rope.dims / 2;
        if (rope.dims != dims_ || rope.base != base_) {
            dims_ = rope.dims, base_ = rope.base, set_ = false;
            for (std::int64_t i = 0; i < half; ++i)
                frequencies_[i] = ref::rope_frequency(i, rope.dims, rope.base);
        }
        if (set_ && position == position_ && rope.frequency_scale == scale_ &&
            std::ranges::equal(rope.factors, factors_))
            return;
        position_ = position, scale_ = rope.frequency_scale, set_ = true;
        factors_.assign(rope.factors.begin(), rope.factors.end());
        for (std::int64_t i = 0; i < half; ++i) {
            const auto u = static_cast<std::size_t>(i);
            const double factor = rope.factors.empty() ? 1.0 : static_cast<double>(rope.factors[u]);
            const double angle =
                ref::rope_angle(frequencies_[i], rope.frequency_scale, factor, position);
            cosine[i] = std::cos(angle), sine[i] = std::sin(angle);
            cosine_f32[i] = static_cast<float>(cosine[i]);
            sine_f32[i] = static_cast<float>(sine[i]);
        }
    }

  private:
    double frequencies_[kMostPairs];
    std::vector<float> factors_;
    double base_ = 0, scale_ = 0;
    std::int64_t position_ = 0;
    int dims_ = 0;
    bool set_ = false;
};

}  // namespace

void rope(const Exec& exec, const Rope& rope, int head_dim, std::span<const std::int64_t> positions,
          View x) {
    const Timed timed(exec, "rope");
    require_view(exec, x, static_cast<std::int64_t>(positions.size()), x.cols, "rope");
    const std::int64_t half = rope.dims / 2, heads = x.cols / head_dim;
    require(rope.dims % 2 == 0 && rope.dims <= head_dim && x.cols % head_dim == 0 &&
                half <= RopeAngles::kMostPairs,
            "rope", "rotated dims must be even and fit the head");
    require(rope.factors.empty() || std::ssize(rope.factors) == half, "rope",
            "one factor per frequency is needed");
    if (is_cuda(exec)) return on_cuda::rope(exec, rope, head_dim, positions, x);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    const auto kernel =
        rope.style == RopeStyle::kHalves ? table.rope_halves : table.rope_interleaved;
    const std::int64_t step = rope.style == RopeStyle::kHalves ? 1 : 2;
    const std::int64_t partner = rope.style == RopeStyle::kHalves ? half : 1;
    for_rows(exec, x.rows, x.cols + 32 * rope.dims, [&](std::int64_t t) {
        thread_local RopeAngles angles;
        angles.set(rope, positions[static_cast<std::size_t>(t)]);
        for (std::int64_t h = 0; h < heads; ++h) {
            if (!is_ref(exec)) {
                kernel(x.row<float>(t) + h * head_dim, angles.cosine_f32, angles.sine_f32, half);
                continue;
            }
            double* head = x.row<double>(t) + h * head_dim;
            for (std::int64_t i = 0; i < half; ++i)
                ref::rotate(head[i * step], head[i * step + partner], angles.cosine[i],
                            angles.sine[i]);
        }
    });
}

void top_k(const Exec& exec, View x, std::span<float> values, std::span<std::int32_t> places) {
    require_view(exec, x, 1, x.cols, "top_k");
    on_cuda::top_k(exec, x, values, places);
}

void row_stats(const Exec& exec, View x, std::span<RowStats> out) {
    const Timed timed(exec, "row_stats");
    require_view(exec, x, std::ssize(out), x.cols, "row_stats");
    if (is_cuda(exec)) return on_cuda::row_stats(exec, x, out);
    const auto& table = kernels(exec.isa);
    for_rows(exec, x.rows, x.cols * 2, [&](std::int64_t r) {
        RowStats& stats = out[static_cast<std::size_t>(r)];
        if (is_ref(exec)) {
            std::int64_t argmax = 0;
            ref::row_stats(x.row<double>(r), x.cols, &stats.log_sum_exp, &argmax);
            stats.argmax = static_cast<std::int32_t>(argmax);
            return;
        }
        float max = 0;
        double sum = 0;
        table.row_stats(x.row<float>(r), x.cols, &max, &stats.argmax, &sum);
        stats.log_sum_exp = static_cast<double>(max) + std::log(sum);
    });
}

}  // namespace thimble::ops
