// SPDX-License-Identifier: Apache-2.0
#include "ops/gradients.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/dense/gemm.h"
#include "kernels/ref/gradients.h"
#include "ops/dense.h"
#include "ops/on_cuda.h"

namespace thimble::ops {
namespace {

// A multiple of every level's lanes, and enough columns to pay for the hand-over.
constexpr std::int64_t kColumns = 64;

// fn(first, count) for blocks of columns.
template <class Fn>
void for_columns(const Exec& exec, std::int64_t rows, std::int64_t cols, Fn&& fn) {
    const auto range = [&](std::int64_t begin, std::int64_t end) { fn(begin, end - begin); };
    if (rows * cols < 16384) return range(0, cols);
    exec.team->run(cols, kColumns, range);
}

void matmul_t_ref(const Exec& exec, View dy, const PackedView& weight, View dx, bool accumulate) {
    const std::int64_t out = weight.shape.rows, in = weight.shape.cols;
    exec.team->run(dx.rows, 1, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> row(static_cast<std::size_t>(in));
        for (std::int64_t t = begin; !accumulate && t < end; ++t)
            std::fill_n(dx.row<double>(t), in, 0.0);
        for (std::int64_t r = 0; r < out; ++r) {
            decode_rows(exec, weight, {r, 1}, {row.data(), DType::kF64, 1, in, in});
            for (std::int64_t t = begin; t < end; ++t) {
                const double y = dy.row<double>(t)[r];
                for (std::int64_t i = 0; i < in; ++i)
                    dx.row<double>(t)[i] += y * row[static_cast<std::size_t>(i)];
            }
        }
    });
}

void weight_gradient_ref(const Exec& exec, View dy, View x, View dw) {
    exec.team->run(dw.rows, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            for (std::int64_t t = 0; t < x.rows; ++t) {
                const double y = dy.row<double>(t)[r];
                for (std::int64_t i = 0; i < dw.cols; ++i)
                    dw.row<double>(r)[i] += y * x.row<double>(t)[i];
            }
        }
    });
}

}  // namespace

bool has_bf16_products(Isa isa) {
    cpu::limit_gemm(isa);
    return cpu::gemm_has_bf16();
}

void matmul_t(const Exec& exec, MatmulInput& dy, const PackedView& weight, View dx,
              bool accumulate) {
    require_view(exec, dy.view(), dx.rows, weight.shape.rows, "matmul_t");
    require_view(exec, dx, dx.rows, weight.shape.cols, "matmul_t");
    if (is_ref(exec)) {
        return exec.dry ? void() : matmul_t_ref(exec, dy.view(), weight, dx, accumulate);
    }
    const View from = dy.dense();
    if (dx.rows == 0) return;
    dense::for_panels(exec, weight, [&](RowRange rows, View w) {
        dense::Product product;
        product.a = from.slice_cols(rows.first, rows.count);
        product.b = w, product.c = dx;
        product.accumulate = accumulate || rows.first > 0;
        dense::multiply_tiled(exec, product);
    });
}

void weight_gradient(const Exec& exec, MatmulInput& dy, MatmulInput& x, View dw) {
    require_view(exec, dy.view(), dy.view().rows, dw.rows, "weight_gradient");
    require_view(exec, x.view(), dy.view().rows, dw.cols, "weight_gradient");
    require_view(exec, dw, dw.rows, dw.cols, "weight_gradient");
    if (exec.dry) return;
    if (is_ref(exec)) return weight_gradient_ref(exec, dy.view(), x.view(), dw);
    dense::Product product;
    product.a = dy.dense(), product.a_transposed = true;
    product.b = x.dense(), product.c = dw, product.accumulate = true;
    dense::multiply_tiled(exec, product);
}

std::size_t matmul_t_bytes(const Exec& exec, Shape2 weight) { return matmul_bytes(exec, weight); }

void clear(const Exec& exec, View x) {
    require_view(exec, x, x.rows, x.cols, "clear");
    if (exec.dry) return;
    if (is_cuda(exec)) return on_cuda::clear(exec, x);
    for (std::int64_t r = 0; r < x.rows; ++r)
        std::memset(x.row_bytes(r), 0, static_cast<std::size_t>(x.cols) * size_of(x.dtype));
}

void column_sums(const Exec& exec, View dy, View db) {
    require_view(exec, dy, dy.rows, db.cols, "column_sums");
    require_view(exec, db, 1, db.cols, "column_sums");
    if (is_cuda(exec)) return on_cuda::column_sums(exec, dy, nullptr, nullptr, db);
    if (exec.dry) return;
    if (is_ref(exec)) {
        for (std::int64_t t = 0; t < dy.rows; ++t) {
            for (std::int64_t i = 0; i < db.cols; ++i) db.row<double>(0)[i] += dy.row<double>(t)[i];
        }
        return;
    }
    for_columns(exec, dy.rows, db.cols, [&](std::int64_t first, std::int64_t count) {
        cpu::ColumnSums problem{};
        problem.y = dy.row<float>(0) + first, problem.y_stride = dy.stride;
        problem.rows = dy.rows, problem.cols = count, problem.sums = db.row<float>(0) + first;
        kernels(exec.isa).column_sums(problem);
    });
}

void rms_norm_backward(const Exec& exec, View x, View weight, double eps, View dy, View dx,
                       const View* dweight) {
    require_view(exec, weight, 1, x.cols, "rms_norm_backward");
    require_view(exec, x, x.rows, x.cols, "rms_norm_backward");
    require_view(exec, dy, x.rows, x.cols, "rms_norm_backward");
    require_view(exec, dx, x.rows, x.cols, "rms_norm_backward");
    if (dweight != nullptr) require_view(exec, *dweight, 1, x.cols, "rms_norm_backward");
    const bool accumulate = dx.data != dy.data;
    if (is_cuda(exec))
        return on_cuda::rms_norm_backward(exec, x, weight, eps, dy, dx, accumulate, dweight);
    if (is_ref(exec)) {
        for (std::int64_t t = 0; t < x.rows && !exec.dry; ++t) {
            ref::rms_norm_backward(x.row<double>(t), weight.row<double>(0), dy.row<double>(t),
                                   x.cols, eps, accumulate, dx.row<double>(t),
                                   dweight != nullptr ? dweight->row<double>(0) : nullptr);
        }
        return;
    }
    const auto& table = kernels(exec.isa);
    const WorkspaceScope scope(*exec.workspace);
    float* r = exec.workspace->take_view(DType::kF32, 1, x.rows).row<float>(0);
    if (exec.dry) return;
    for_rows(exec, x.rows, x.cols, [&](std::int64_t t) {
        table.inverse_rms(x.row<float>(t), x.cols, static_cast<float>(eps), r + t);
    });
    if (dweight != nullptr) {
        for_columns(exec, x.rows, x.cols, [&](std::int64_t first, std::int64_t count) {
            cpu::ColumnSums problem{};
            problem.y = dy.row<float>(0) + first, problem.y_stride = dy.stride;
            problem.x = x.row<float>(0) + first, problem.x_stride = x.stride, problem.r = r;
            problem.rows = x.rows, problem.cols = count;
            problem.sums = dweight->row<float>(0) + first;
            table.column_sums(problem);
        });
    }
    for_rows(exec, x.rows, x.cols * 2, [&](std::int64_t t) {
        table.rms_norm_backward({x.row<float>(t), weight.row<float>(0), dy.row<float>(t), x.cols,
                                 r[t], accumulate, dx.row<float>(t)});
    });
}

std::size_t rms_norm_backward_bytes(const Exec& exec, std::int64_t tokens) {
    if (is_ref(exec)) return 0;
    return (static_cast<std::size_t>(tokens) * sizeof(float) + 63) & ~std::size_t{63};
}

void glu_backward(const Exec& exec, Gate act, View gate, View up, View dy, View dgate, View dup) {
    for (const View& view : {gate, up, dy, dgate, dup})
        require_view(exec, view, gate.rows, gate.cols, "glu_backward");
    if (is_cuda(exec)) return on_cuda::glu_backward(exec, act, gate, up, dy, dgate, dup);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    const auto kernel = act == Gate::kSilu ? table.silu_glu_backward : table.gelu_glu_backward;
    for_rows(exec, gate.rows, gate.cols * 2, [&](std::int64_t t) {
        if (!is_ref(exec)) {
            return kernel(gate.row<float>(t), up.row<float>(t), dy.row<float>(t), gate.cols,
                          dgate.row<float>(t), dup.row<float>(t));
        }
        for (std::int64_t i = 0; i < gate.cols; ++i) {
            const double g = gate.row<double>(t)[i], u = up.row<double>(t)[i];
            const double d = dy.row<double>(t)[i];
            const bool silu = act == Gate::kSilu;
            dgate.row<double>(t)[i] = d * u * (silu ? ref::silu_slope(g) : ref::gelu_tanh_slope(g));
            dup.row<double>(t)[i] = d * (silu ? ref::silu(g) : ref::gelu_tanh(g));
        }
    });
}

void embed_backward(const Exec& exec, std::span<const std::int32_t> tokens, double factor, View dx,
                    View dtable) {
    require_view(exec, dx, std::ssize(tokens), dtable.cols, "embed_backward");
    require_view(exec, dtable, dtable.rows, dtable.cols, "embed_backward");
    if (exec.dry) return;
    for (const std::int32_t token : tokens)
        require(token >= 0 && token < dtable.rows, "embed_backward", "a token is out of range");
    if (is_cuda(exec)) return on_cuda::embed_backward(exec, tokens, factor, dx, dtable);
    for_columns(exec, dx.rows, dx.cols, [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t t = 0; t < dx.rows; ++t) {
            const std::int64_t row = tokens[static_cast<std::size_t>(t)];
            if (!is_ref(exec)) {
                kernels(exec.isa).add_scaled(dx.row<float>(t) + first, static_cast<float>(factor),
                                             count, dtable.row<float>(row) + first);
                continue;
            }
            for (std::int64_t i = first; i < first + count; ++i)
                dtable.row<double>(row)[i] += factor * dx.row<double>(t)[i];
        }
    });
}

}  // namespace thimble::ops
