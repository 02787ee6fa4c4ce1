// SPDX-License-Identifier: Apache-2.0
#include "ops/columns.h"

#include <cmath>
#include <vector>

#include "kernels/layout/rng.h"
#include "ops/dispatch.h"
#include "ops/on_cuda.h"
#include "ops/op_clock.h"

namespace thimble::ops {
namespace {

template <class Fn>
void with_real(const Exec& exec, Fn&& fn) {
    is_ref(exec) ? fn(double{}) : fn(float{});
}

double row_length(const Exec& exec, const PackedView& weight, const PackedView& a,
                  const PackedView& b, double scale, std::int64_t r) {
    const std::int64_t cols = weight.shape.cols;
    Exec in_double = exec;
    in_double.device = Device::kRef;
    std::vector<double> row(static_cast<std::size_t>(cols));
    decode_rows(in_double, weight, {r, 1}, {row.data(), DType::kF64, 1, cols, cols});
    add_terms(reinterpret_cast<const float*>(a.row(0)),
              {reinterpret_cast<const float*>(b.row(r)), static_cast<std::size_t>(a.shape.rows)},
              scale, row);
    double sum = 0;
    for (const double value : row) sum += value * value;
    return std::sqrt(sum);
}

}  // namespace

void add_terms(const float* a, std::span<const float> b, double scale, std::span<double> row) {
    for (std::size_t k = 0; k < b.size(); ++k) {
        const double factor = scale * static_cast<double>(b[k]);
        if (factor == 0) continue;
        const float* terms = a + k * row.size();
        for (std::size_t c = 0; c < row.size(); ++c)
            row[c] += factor * static_cast<double>(terms[c]);
    }
}

void row_lengths(const Exec& exec, const PackedView& weight, const PackedView& a,
                 const PackedView& b, double scale, std::span<double> lengths) {
    const Shape2 shape = weight.shape;
    require(a.layout == LayoutId::k_f32 && b.layout == LayoutId::k_f32 &&
                a.shape.cols == shape.cols && b.shape.rows == shape.rows &&
                a.shape.rows == b.shape.cols && std::ssize(lengths) == shape.rows,
            "row_lengths", "the shapes do not agree");
    if (exec.dry) return;
    if (is_cuda(exec)) return on_cuda::row_lengths(exec, weight, a, b, scale, lengths);
    exec.team->run(shape.rows, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            lengths[static_cast<std::size_t>(r)] = row_length(exec, weight, a, b, scale, r);
    });
}

void scale_columns(const Exec& exec, View x, View factors, const std::optional<View>& bias,
                   View out) {
    const Timed timed(exec, "scale_columns");
    require_view(exec, x, out.rows, out.cols, "scale_columns");
    require_view(exec, factors, 1, x.cols, "scale_columns");
    if (bias) require_view(exec, *bias, 1, x.cols, "scale_columns");
    if (is_cuda(exec))
        return on_cuda::scale_columns(exec, x, &factors, bias ? &*bias : nullptr, out);
    if (exec.dry) return;
    with_real(exec, [&](auto zero) {
        using Real = decltype(zero);
        const Real* f = factors.row<Real>(0);
        const Real* b = bias ? bias->row<Real>(0) : nullptr;
        for_rows(exec, x.rows, x.cols / 4, [&](std::int64_t t) {
            const Real* in = x.row<Real>(t);
            Real* to = out.row<Real>(t);
            for (std::int64_t i = 0; i < x.cols; ++i)
                to[i] = in[i] * f[i] + (b != nullptr ? b[i] : Real{0});
        });
    });
}

void column_dots(const Exec& exec, View dy, View y, View db) {
    require_view(exec, y, dy.rows, dy.cols, "column_dots");
    require_view(exec, db, 1, dy.cols, "column_dots");
    if (is_cuda(exec)) return on_cuda::column_sums(exec, dy, &y, nullptr, db);
    if (exec.dry) return;
    with_real(exec, [&](auto zero) {
        using Real = decltype(zero);
        // Tasks own columns, so each sum has one order.
        exec.team->run(dy.cols, 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t t = 0; t < dy.rows; ++t) {
                for (std::int64_t i = begin; i < end; ++i)
                    db.row<Real>(0)[i] += dy.row<Real>(t)[i] * y.row<Real>(t)[i];
            }
        });
    });
}

void dropout(const Exec& exec, View x, double rate, std::uint64_t seed, std::uint64_t stream,
             View out) {
    require(rate >= 0 && rate < 1, "dropout", "a rate is in [0, 1)");
    require_view(exec, x, out.rows, out.cols, "dropout");
    if (is_cuda(exec)) return on_cuda::dropout(exec, x, rate, seed, stream, out);
    if (exec.dry) return;
    with_real(exec, [&](auto zero) {
        using Real = decltype(zero);
        const auto limit = static_cast<float>(rate);
        const Real factor = Real{1} / static_cast<Real>(1 - rate);
        for_rows(exec, x.rows, 8 * x.cols, [&](std::int64_t t) {
            Philox4 words{};
            for (std::int64_t i = 0; i < x.cols; ++i) {
                const auto element = static_cast<std::uint64_t>(t * x.cols + i);
                if (i == 0 || element % 4 == 0) words = philox(seed, element / 4, stream);
                const bool drops = unit_float(words.v[element % 4]) < limit;
                out.row<Real>(t)[i] = drops ? Real{0} : x.row<Real>(t)[i] * factor;
            }
        });
    });
}

}  // namespace thimble::ops
