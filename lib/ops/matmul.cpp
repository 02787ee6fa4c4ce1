// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/layout/all.h"
#include "kernels/ref/ref.h"
#include "ops/dispatch.h"

namespace thimble::ops {
namespace {

void matmul_ref(const Exec& exec, View x, const Matmul& p) {
    const std::int64_t cols = p.weight.shape.cols;
    exec.team->run(p.weight.shape.rows, 8, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> row(static_cast<std::size_t>(cols));
        for (std::int64_t r = begin; r < end; ++r) {
            decode_rows(exec, p.weight, {r, 1}, {row.data(), DType::kF64, 1, cols, cols});
            for (std::int64_t t = 0; t < x.rows; ++t) {
                double sum = ref::dot(x.row<double>(t), row.data(), cols);
                if (p.bias) sum += p.bias->row<double>(0)[r];
                double& out = p.out.row<double>(t)[r];
                out = p.accumulate ? out + sum : sum;
            }
        }
    });
}

// Rows of work for one task: small enough to balance, large enough to pay for the hand-over.
std::int64_t grain_rows(std::int64_t rows, std::int64_t cols) {
    const std::int64_t wanted = std::max<std::int64_t>(16, (std::int64_t{1} << 17) / cols);
    return std::min(rows, (wanted + 15) & ~std::int64_t{15});
}

}  // namespace

struct MatmulInput::Quantised {};

MatmulInput::MatmulInput(const Exec& exec, View x) : exec_(exec), x_(x), scope_(*exec.workspace) {}
MatmulInput::~MatmulInput() = default;

void matmul(const Exec& exec, MatmulInput& x, const Matmul& p) {
    const View in = x.view();
    const Shape2 shape = p.weight.shape;
    require_view(exec, in, in.rows, shape.cols, "matmul");
    require_view(exec, p.out, in.rows, shape.rows, "matmul");
    if (p.bias) require_view(exec, *p.bias, 1, shape.rows, "matmul");
    if (is_ref(exec)) return matmul_ref(exec, in, p);
    const auto& table = kernels(exec.isa);
    exec.team->run(shape.rows, grain_rows(shape.rows, shape.cols),
                   [&](std::int64_t begin, std::int64_t end) {
                       cpu::MatmulRows task{};
                       task.layout = p.weight.layout;
                       task.weights = p.weight.row(begin);
                       task.row_bytes = p.weight.planes[0].row_bytes;
                       task.rows = end - begin, task.cols = shape.cols;
                       task.x = in.row<float>(0), task.tokens = in.rows, task.x_stride = in.stride;
                       task.out = p.out.row<float>(0) + begin, task.out_stride = p.out.stride;
                       task.bias = p.bias ? p.bias->row<float>(0) + begin : nullptr;
                       task.accumulate = p.accumulate;
                       table.matmul_rows(task);
                   });
}

void matmul(const Exec& exec, MatmulInput& x, std::span<const Matmul> problems) {
    for (const Matmul& p : problems) matmul(exec, x, p);
}

std::size_t matmul_input_bytes(const Exec& exec, std::int64_t tokens, std::int64_t in) {
    (void)exec, (void)tokens, (void)in;
    return 0;
}

std::optional<LayoutId> resident_layout(LayoutId stored, Isa isa, Shape2 shape) {
    (void)stored, (void)isa, (void)shape;
    return std::nullopt;
}

std::size_t packed_bytes(LayoutId layout, Shape2 shape) {
    const LayoutInfo& info = layout_info(layout);
    return static_cast<std::size_t>(shape.rows * (shape.cols / info.block_elements)) *
           info.block_bytes;
}

PackedView repack(const Exec& exec, const PackedView& stored, LayoutId layout, std::byte* out) {
    (void)exec;
    require(stored.layout == layout, "repack", "there is no such resident layout");
    PackedView view = stored;
    std::memcpy(out, stored.planes[0].data, stored.bytes());
    view.planes[0].data = out;
    return view;
}

void decode_rows(const Exec& exec, const PackedView& weight, RowRange range, View out) {
    require_view(exec, out, range.count, weight.shape.cols, "decode_rows");
    require(range.first >= 0 && range.count >= 0 && range.first + range.count <= weight.shape.rows,
            "decode_rows", "the rows are outside the matrix");
    for (std::int64_t r = 0; r < range.count; ++r) {
        const std::byte* row = weight.row(range.first + r);
        if (!is_ref(exec)) {
            kernels(exec.isa).decode_row(weight.layout, row, weight.shape.cols, out.row<float>(r));
            continue;
        }
        with_layout(weight.layout, [&](auto layout) {
            using L = decltype(layout);
            const auto* blocks = reinterpret_cast<const typename L::Block*>(row);
            for (std::int64_t k = 0; k < weight.shape.cols; k += L::kElements)
                L::unpack(blocks[k / L::kElements], out.row<double>(r) + k);
        });
    }
}

}  // namespace thimble::ops
