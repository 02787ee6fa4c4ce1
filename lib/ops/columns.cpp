// SPDX-License-Identifier: Apache-2.0
#include "ops/columns.h"

#include "kernels/layout/rng.h"
#include "ops/dispatch.h"

namespace thimble::ops {
namespace {

template <class Fn>
void with_real(const Exec& exec, Fn&& fn) {
    is_ref(exec) ? fn(double{}) : fn(float{});
}

}  // namespace

void scale_columns(const Exec& exec, View x, View factors, const std::optional<View>& bias,
                   View out) {
    require(!is_cuda(exec), "scale_columns", "there is no CUDA kernel");
    require_view(exec, x, out.rows, out.cols, "scale_columns");
    require_view(exec, factors, 1, x.cols, "scale_columns");
    if (bias) require_view(exec, *bias, 1, x.cols, "scale_columns");
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
    require(!is_cuda(exec), "column_dots", "there is no CUDA kernel");
    require_view(exec, y, dy.rows, dy.cols, "column_dots");
    require_view(exec, db, 1, dy.cols, "column_dots");
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
    require(!is_cuda(exec), "dropout", "there is no CUDA kernel");
    require(rate >= 0 && rate < 1, "dropout", "a rate is in [0, 1)");
    require_view(exec, x, out.rows, out.cols, "dropout");
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
