// SPDX-License-Identifier: Apache-2.0
#include "ops/on_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/ref/ref.h"
#include "ops/cuda_context.h"
#include "ops/cuda_matrix.h"
#include "ops/dispatch.h"

namespace thimble::ops::on_cuda {

void rms_norm(const Exec& exec, View x, View weight, double eps, View out) {
    launch(exec, cuda::supports_rms_norm, cuda::rms_norm,
           cuda::RmsNorm{.x = floats(x),
                         .weight = floats(weight),
                         .out = floats(out),
                         .rows = x.rows,
                         .cols = x.cols,
                         .x_stride = x.stride,
                         .out_stride = out.stride,
                         .epsilon = static_cast<float>(eps)});
}

void add(const Exec& exec, View a, View b, View out) {
    launch(exec, cuda::supports_add, cuda::add,
           cuda::Add{.a = floats(a),
                     .b = floats(b),
                     .out = floats(out),
                     .rows = a.rows,
                     .cols = a.cols,
                     .a_stride = a.stride,
                     .b_stride = b.stride,
                     .out_stride = out.stride});
}

void scale(const Exec& exec, View x, double factor) {
    launch(exec, cuda::supports_scale, cuda::scale,
           cuda::Scale{.x = floats(x),
                       .rows = x.rows,
                       .cols = x.cols,
                       .stride = x.stride,
                       .factor = static_cast<float>(factor)});
}

void glu(const Exec& exec, Gate act, View gate, View up, const View* least, View out) {
    launch(exec, cuda::supports_glu, cuda::glu,
           cuda::Glu{.activation =
                         act == Gate::kSilu ? cuda::Activation::kSilu : cuda::Activation::kGeluTanh,
                     .gate = floats(gate),
                     .up = floats(up),
                     .out = floats(out),
                     .rows = gate.rows,
                     .cols = gate.cols,
                     .gate_stride = gate.stride,
                     .up_stride = up.stride,
                     .out_stride = out.stride,
                     .least = least ? floats(*least) : nullptr});
}

void embed(const Exec& exec, const PackedView& table, std::span<const std::int32_t> tokens,
           double factor, View out) {
    launch(exec, cuda::supports_embed, cuda::embed,
           cuda::Embed{.table = matrix(table),
                       .tokens = upload(exec, tokens),
                       .out = floats(out),
                       .count = out.rows,
                       .out_stride = out.stride,
                       .factor = static_cast<float>(factor)});
}

void rope(const Exec& exec, const Rope& rope, int head_dim, std::span<const std::int64_t> positions,
          View x) {
    std::vector<double> frequencies(static_cast<std::size_t>(rope.dims / 2));
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const double factor = rope.factors.empty() ? 1.0 : static_cast<double>(rope.factors[i]);
        frequencies[i] = ref::rope_angle(static_cast<std::int64_t>(i), rope.dims, rope.base,
                                         rope.frequency_scale, factor, 1);
    }
    launch(exec, cuda::supports_rope, cuda::rope,
           cuda::RopeRows{.x = floats(x),
                          .tokens = x.rows,
                          .stride = x.stride,
                          .heads = static_cast<int>(x.cols / head_dim),
                          .head_dim = head_dim,
                          .dims = rope.dims,
                          .halves = rope.style == RopeStyle::kHalves,
                          .positions = upload(exec, positions),
                          .frequencies = upload(exec, std::span<const double>(frequencies))});
}

void row_stats(const Exec& exec, View x, std::span<RowStats> out) {
    if (x.rows == 0) return;
    const WorkspaceScope scope(*exec.workspace);
    const View results = exec.workspace->take_view(DType::kF32, 3, x.rows);
    launch(exec, cuda::supports_row_stats, cuda::row_stats,
           cuda::RowStatistics{.x = floats(x),
                               .rows = x.rows,
                               .cols = x.cols,
                               .stride = x.stride,
                               .max = results.row<float>(0),
                               .argmax = reinterpret_cast<std::int32_t*>(results.row<float>(1)),
                               .sum = results.row<float>(2)});
    const auto n = static_cast<std::size_t>(x.rows);
    std::vector<float> host(3 * n);
    to_host(exec, results.data, host.data(), host.size() * sizeof(float));
    for (std::size_t r = 0; r < n; ++r) {
        out[r].log_sum_exp =
            static_cast<double>(host[r]) + std::log(static_cast<double>(host[2 * n + r]));
        std::memcpy(&out[r].argmax, &host[n + r], sizeof out[r].argmax);
    }
}

void top_k(const Exec& exec, View x, std::span<float> values, std::span<std::int32_t> places) {
    static_assert(kMostTop == cuda::kMostTop);
    const WorkspaceScope scope(*exec.workspace);
    const auto k = std::ssize(values);
    const auto scratch = static_cast<std::size_t>(cuda::top_k_scratch(x.cols, k));
    const View results = exec.workspace->take_view(DType::kF32, 2, k);
    auto* there = reinterpret_cast<std::int32_t*>(results.row<float>(1));
    launch(exec, cuda::supports_top_k, cuda::top_k,
           cuda::TopK{.x = floats(x),
                      .cols = x.cols,
                      .k = k,
                      .scratch = reinterpret_cast<std::uint64_t*>(
                          exec.workspace->take(scratch * sizeof(std::uint64_t))),
                      .values = results.row<float>(0),
                      .places = there});
    on_device([&] {
        cuda::copy_to_host(exec.cuda->compute(), values.data(), results.data, values.size_bytes());
    });
    to_host(exec, there, places.data(), places.size_bytes());
}

void decode_rows(const Exec& exec, const PackedView& weight, RowRange range, View out) {
    const bool narrow = out.dtype == DType::kBF16;
    launch(exec, cuda::supports_decode_rows, cuda::decode_rows,
           cuda::DecodeRows{.matrix = matrix(weight),
                            .first = range.first,
                            .count = range.count,
                            .out = narrow ? nullptr : floats(out),
                            .out_stride = out.stride,
                            .bf16 = narrow ? static_cast<std::uint16_t*>(out.data) : nullptr});
}

void encode_kv(const Exec& exec, View x, int head_dim, LayoutId layout, std::byte* out,
               std::size_t token_bytes, std::size_t head_bytes) {
    launch(exec, cuda::supports_encode_kv, cuda::encode_kv,
           cuda::EncodeKv{.x = floats(x),
                          .tokens = x.rows,
                          .stride = x.stride,
                          .heads = static_cast<int>(x.cols / head_dim),
                          .head_dim = head_dim,
                          .layout = layout,
                          .out = out,
                          .token_bytes = token_bytes,
                          .head_bytes = head_bytes});
}

void copy(const Exec& exec, View from, View to) {
    if (from.rows == 0 || exec.dry) return;
    on_device([&] { cuda::copy_rows_on_device(exec.cuda->compute(), rows_of(from, to)); });
}

}  // namespace thimble::ops::on_cuda

std::size_t thimble::ops::top_k_bytes(std::int64_t n) {
    const auto aligned = [](std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; };
    const std::int64_t k = std::min(kMostTop, n);
    return aligned(static_cast<std::size_t>(2 * k) * sizeof(float)) +
           aligned(static_cast<std::size_t>(cuda::top_k_scratch(n, k)) * sizeof(std::uint64_t));
}
