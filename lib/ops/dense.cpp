// SPDX-License-Identifier: Apache-2.0
#include "ops/dense.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "kernels/cpu/dense/gemm.h"
#include "ops/exponents.h"
#include "ops/on_cuda.h"

namespace thimble::ops::dense {
namespace {

constexpr std::size_t kPanelBytes = std::size_t{4} << 20;
constexpr std::size_t kDevicePanelBytes = std::size_t{32} << 20;  // a product fills the device
constexpr std::int64_t kDecodeColumns = 1024;  // a multiple of every layout's block_elements

std::int64_t panel_rows(const Exec& exec, Shape2 weight) {
    const std::size_t bytes = is_cuda(exec) ? kDevicePanelBytes : kPanelBytes;
    const std::size_t row_bytes =
        std::max<std::size_t>(static_cast<std::size_t>(weight.cols) * size_of(held(exec)), 1);
    const auto rows = static_cast<std::int64_t>(bytes / row_bytes) & ~std::int64_t{63};
    return std::min(weight.rows, std::max<std::int64_t>(rows, 64));
}

// The stored rows themselves, where they are an operand already.
bool in_place(const Exec& exec, const PackedView& weight) {
    if (weight.coded != nullptr) return false;
    if (weight.layout == LayoutId::k_f32) return !rounds(exec);
    return weight.layout == LayoutId::k_bf16 && held(exec) == DType::kBF16;
}

void decode_row(const Exec& exec, const PackedView& weight, const PackedRow& from, std::byte* out) {
    const auto& table = kernels(exec.isa);
    const std::size_t element_bytes = size_of(held(exec));
    float values[kDecodeColumns];
    for (std::int64_t k = 0; k < weight.shape.cols; k += kDecodeColumns) {
        const std::int64_t count = std::min(kDecodeColumns, weight.shape.cols - k);
        std::byte* to = out + static_cast<std::size_t>(k) * element_bytes;
        if (rounds(exec)) {
            table.decode_columns(weight.layout, from, k, count, values);
            narrow(exec, values, count, to);
        } else {
            table.decode_columns(weight.layout, from, k, count, reinterpret_cast<float*>(to));
        }
    }
}

// Rows of coded weights, whole strips at a time where the range allows.
void decode_coded(const Exec& exec, const PackedView& weight, RowRange rows, View out) {
    const std::int64_t step = weight.coded->chunks().strip_rows(), cols = weight.shape.cols;
    const std::int64_t begin = weight.coded_first + rows.first, end = begin + rows.count;
    const std::int64_t first = begin / step, strips = (end - 1) / step + 1 - first;
    exec.team->run(rows.count > 0 ? strips : 0, 1, [&](std::int64_t s, std::int64_t) {
        const std::int64_t from = std::max(begin, (first + s) * step);
        const std::int64_t count = std::min(end, (first + s + 1) * step) - from;
        std::vector<std::uint16_t> numbers(static_cast<std::size_t>(count * cols));
        weight.coded->decode_rows({from, count}, numbers.data());
        for (std::int64_t r = 0; r < count; ++r)
            decode_row(exec, weight, {{&numbers[static_cast<std::size_t>(r * cols)]}, {}},
                       out.row_bytes(from - begin + r));
    });
}

// Rows and columns of a result that one task computes: large enough that packing the operands is
// cheap, small enough that there are several tasks; measured best in whole multiples of 48 columns.
struct Tile {
    std::int64_t rows, cols;
};
Tile tile_of(std::int64_t m, std::int64_t n) {
    constexpr std::int64_t kRows = 256, kCols = 384, kTasks = 6, kLeast = 64, kStep = 48;
    const auto parts = [](std::int64_t all, std::int64_t one) { return (all + one - 1) / one; };
    std::int64_t down = parts(m, kRows), across = parts(n, kCols);
    Tile tile{};
    for (;;) {
        tile.rows = parts(m, down), tile.cols = parts(parts(n, across), kStep) * kStep;
        const std::int64_t cols = std::min(tile.cols, n);
        if (parts(m, tile.rows) * parts(n, tile.cols) >= kTasks) return tile;
        if (std::max(tile.rows, cols) <= kLeast) return tile;
        ++(tile.rows >= cols ? down : across);
    }
}

// The operand's rows (of a) or columns (of b) [first, first + count).
View part(const View& operand, bool by_rows, std::int64_t first, std::int64_t count) {
    return by_rows ? operand.slice_rows(first, count) : operand.slice_cols(first, count);
}

cpu::GemmOperand strides(const View& view, bool transposed) {
    if (transposed) return {view.data, 1, view.stride};
    return {view.data, view.stride, 1};
}

// The rows and columns of the result from (row, col) on.
Product part_of(const Product& p, std::int64_t row, std::int64_t rows, std::int64_t col,
                std::int64_t cols) {
    Product one = p;
    one.a = part(p.a, !p.a_transposed, row, rows);
    one.b = part(p.b, p.b_transposed, col, cols);
    one.c = p.c.slice_rows(row, rows).slice_cols(col, cols);
    if (p.bias != nullptr) one.bias = p.bias + col;
    return one;
}

// Without the split of multiply().
void multiply_once(const Product& p) {
    bool accumulate = p.accumulate;
    for (std::int64_t t = 0; p.bias != nullptr && t < p.c.rows; ++t) {
        float* c = p.c.row<float>(t);
        for (std::int64_t i = 0; i < p.c.cols; ++i)
            c[i] = p.accumulate ? c[i] + p.bias[i] : p.bias[i];
        accumulate = true;
    }
    cpu::Gemm g{};
    g.bf16 = p.a.dtype == DType::kBF16;
    g.m = p.c.rows, g.n = p.c.cols, g.k = p.a_transposed ? p.a.rows : p.a.cols;
    g.a = strides(p.a, p.a_transposed), g.b = strides(p.b, p.b_transposed);
    g.c = p.c.row<float>(0), g.c_stride = p.c.stride;
    g.accumulate = accumulate;
    if (g.k == 0) {
        for (std::int64_t t = 0; !accumulate && t < p.c.rows; ++t)
            std::fill_n(p.c.row<float>(t), p.c.cols, 0.0f);
        return;
    }
    try {
        cpu::gemm(g);
    } catch (const std::runtime_error& e) {
        throw Error(Exit::kFailure, "dense product", e.what());
    }
}

}  // namespace

bool rounds(const Exec& exec) { return exec.activations == Activations::kBf16; }

DType held(const Exec& exec) {
    if (is_cuda(exec)) return rounds(exec) ? DType::kBF16 : DType::kF32;
    cpu::limit_gemm(exec.isa);
    return rounds(exec) && cpu::gemm_has_bf16() ? DType::kBF16 : DType::kF32;
}

std::size_t operand_bytes(const Exec& exec, std::int64_t rows, std::int64_t cols) {
    if (!rounds(exec)) return 0;
    return (static_cast<std::size_t>(rows * cols) * size_of(held(exec)) + 63) & ~std::size_t{63};
}

void narrow(const Exec& exec, const float* x, std::int64_t n, void* out) {
    if (held(exec) == DType::kBF16) {
        kernels(exec.isa).narrow_bf16(x, n, static_cast<std::uint16_t*>(out));
    } else {
        kernels(exec.isa).round_bf16(x, n, static_cast<float*>(out));
    }
}

View operand(const Exec& exec, View x) {
    if (!rounds(exec)) return x;
    const View out = exec.workspace->take_view(held(exec), x.rows, x.cols);
    if (is_cuda(exec)) on_cuda::narrow(exec, x, out);
    if (exec.dry || is_cuda(exec)) return out;
    for_rows(exec, x.rows, x.cols / 2,
             [&](std::int64_t t) { narrow(exec, x.row<float>(t), x.cols, out.row_bytes(t)); });
    return out;
}

void for_panels(const Exec& exec, const PackedView& weight,
                const std::function<void(RowRange rows, View w)>& fn) {
    const Shape2 shape = weight.shape;
    require(layout_info(weight.layout).block_rows == 1, "dense",
            "weights must be in a stored layout");
    if (in_place(exec, weight)) {
        if (exec.dry) return;
        const DType type = held(exec);
        void* data = const_cast<std::byte*>(weight.row(0));  // only read
        const auto stride = static_cast<std::int64_t>(weight.planes[0].row_bytes / size_of(type));
        return fn({0, shape.rows}, {data, type, shape.rows, shape.cols, stride});
    }
    const WorkspaceScope scope(*exec.workspace);
    const std::int64_t step = panel_rows(exec, shape);
    const View panel = exec.workspace->take_view(held(exec), step, shape.cols);
    if (exec.dry) return;
    for (std::int64_t first = 0; first < shape.rows; first += step) {
        const RowRange rows{first, std::min(step, shape.rows - first)};
        const View w = panel.slice_rows(0, rows.count);
        if (is_cuda(exec)) {
            on_cuda::decode_rows(exec, weight, rows, w);
        } else if (weight.coded != nullptr) {
            decode_coded(exec, weight, rows, w);
        } else {
            for_rows(exec, rows.count, shape.cols, [&](std::int64_t r) {
                decode_row(exec, weight, weight.packed_row(first + r), w.row_bytes(r));
            });
        }
        fn(rows, w);
    }
}

std::size_t panel_bytes(const Exec& exec, Shape2 weight) {
    const std::int64_t rows = panel_rows(exec, weight);
    return (static_cast<std::size_t>(rows * weight.cols) * size_of(held(exec)) + 63) &
           ~std::size_t{63};
}

void multiply(const Product& p) {
    // The GEMM's own packing buffer grows with the columns.
    constexpr std::int64_t kColumns = 2048;
    for (std::int64_t col = 0; p.c.rows > 0 && col < p.c.cols; col += kColumns)
        multiply_once(part_of(p, 0, p.c.rows, col, std::min(kColumns, p.c.cols - col)));
}

void multiply_tiled(const Exec& exec, const Product& p) {
    if (is_cuda(exec)) return on_cuda::multiply(exec, p);
    const Tile tile = tile_of(p.c.rows, p.c.cols);
    const std::int64_t across = (p.c.cols + tile.cols - 1) / tile.cols;
    const std::int64_t down = (p.c.rows + tile.rows - 1) / tile.rows;
    exec.team->run(across * down, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            const std::int64_t row = task / across * tile.rows, col = task % across * tile.cols;
            multiply(part_of(p, row, std::min(tile.rows, p.c.rows - row), col,
                             std::min(tile.cols, p.c.cols - col)));
        }
    });
}

}  // namespace thimble::ops::dense
