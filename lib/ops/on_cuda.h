// SPDX-License-Identifier: Apache-2.0
// The operations of ops.h, gradients.h, columns.h and loss.h on Device::kCuda: shapes have been
// checked.
#pragma once

#include "ops/dense.h"
#include "ops/gradients.h"
#include "ops/loss.h"
#include "ops/ops.h"

namespace thimble::ops::on_cuda {

void rms_norm(const Exec& exec, View x, View weight, double eps, View out);
void add(const Exec& exec, View a, View b, View out);
void scale(const Exec& exec, View x, double factor);
// `least` [1, n] or null: see glu_above().
void glu(const Exec& exec, Gate act, View gate, View up, const View* least, View out);
void embed(const Exec& exec, const PackedView& table, std::span<const std::int32_t> tokens,
           double factor, View out);
void rope(const Exec& exec, const Rope& rope, int head_dim, std::span<const std::int64_t> positions,
          View x);
void row_stats(const Exec& exec, View x, std::span<RowStats> out);
void top_k(const Exec& exec, View x, std::span<float> values, std::span<std::int32_t> places);
// To F32 or BF16.
void decode_rows(const Exec& exec, const PackedView& weight, RowRange range, View out);
void encode_kv(const Exec& exec, View x, int head_dim, LayoutId layout, std::byte* out,
               std::size_t token_bytes, std::size_t head_bytes);
void copy(const Exec& exec, View from, View to);
void attention(const Exec& exec, const Attention& problem, const AttnState* state);
[[nodiscard]] std::size_t attention_workspace_bytes(std::int64_t tokens, int heads, int head_dim,
                                                    std::int64_t slots);
void merge(const Exec& exec, const AttnState& part, AttnState into, int head_dim);

// The forms of a matmul's input on the device, made when first wanted.
struct InputForms {
    const std::int8_t* codes = nullptr;  // and their scales and sums: kernels/cuda/kernels.h
    const float *scales = nullptr, *sums = nullptr;
    const std::uint16_t *f16 = nullptr, *bf16 = nullptr;
    const std::uint32_t* planes = nullptr;  // of exec.activations' bits
    const float* plane_scales = nullptr;
};
void matmul(const Exec& exec, View x, InputForms& forms, const Matmul& problem);
[[nodiscard]] std::size_t matmul_input_bytes(const Exec& exec, std::int64_t tokens,
                                             std::int64_t in);

// x to BF16, in rows without gaps.
void narrow(const Exec& exec, View x, View out);
void multiply(const Exec& exec, const dense::Product& product);

void clear(const Exec& exec, View x);
// sums[i] += sum over t of y[t][i] x[t][i] r[t]; without x or r those are 1.
void column_sums(const Exec& exec, View y, const View* x, const float* r, View sums);
void rms_norm_backward(const Exec& exec, View x, View weight, double eps, View dy, View dx,
                       bool accumulate, const View* dweight);
void glu_backward(const Exec& exec, Gate act, View gate, View up, View dy, View dgate, View dup);
void embed_backward(const Exec& exec, std::span<const std::int32_t> tokens, double factor, View dx,
                    View dtable);
void attention_backward(const Exec& exec, const AttentionGradient& problem);
// Without factors those are 1.
void scale_columns(const Exec& exec, View x, const View* factors, const View* bias, View out);
void dropout(const Exec& exec, View x, double rate, std::uint64_t seed, std::uint64_t stream,
             View out);
void row_lengths(const Exec& exec, const PackedView& weight, const PackedView& a,
                 const PackedView& b, double scale, std::span<double> lengths);

void gather_rows(const Exec& exec, View x, std::span<const std::int32_t> rows, View out);
void clear_loss_stats(const Exec& exec, View stats);
void add_loss_stats(const Exec& exec, const LossTile& tile);
void loss_gradient(const Exec& exec, const LossTile& tile, double scale);
[[nodiscard]] double sum_of_losses(const Exec& exec, View stats);

}  // namespace thimble::ops::on_cuda
