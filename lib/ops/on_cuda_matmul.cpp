// SPDX-License-Identifier: Apache-2.0
// Which kernel multiplies, by layout, activations and number of tokens. A few tokens: one pass over
// the weights, in 8 bits where the layout has dot products of bytes and --activations allows, else
// in floats. More: cuBLAS on tensor cores, with the input rounded to 16 bits (finer than 8-bit
// codes) and weights that are not f16 or bf16 decoded to bf16, some rows at a time. With
// --activations f32, and of f32, always floats.
// Weights in bit planes with --activations b1 to b8: bits of both are counted, whatever the number
// of tokens.
#include "ops/cuda_matrix.h"
#include "ops/on_cuda.h"

namespace thimble::ops::on_cuda {
namespace {

// Affine: as model/device_form.h makes it.
bool has_byte_products(const PackedView& w) {
    if (w.layout == LayoutId::k_affine)
        return w.params.group == 32 && w.params.scale == ScaleType::kF16;
    return w.layout == LayoutId::k_q4_k;
}
bool is_half(LayoutId layout) { return layout == LayoutId::k_f16 || layout == LayoutId::k_bf16; }

cuda::Matmul problem_of(View x, const Matmul& p) {
    return {.weight = matrix(p.weight),
            .x = floats(x),
            .tokens = x.rows,
            .x_stride = x.stride,
            .codes = nullptr,
            .scales = nullptr,
            .sums = nullptr,
            .out = floats(p.out),
            .out_stride = p.out.stride,
            .bias = p.bias ? floats(*p.bias) : nullptr,
            .accumulate = p.accumulate};
}

template <class T>
T* take(const Exec& exec, std::int64_t n) {
    return reinterpret_cast<T*>(exec.workspace->take(static_cast<std::size_t>(n) * sizeof(T)));
}

void quantise(const Exec& exec, View x, InputForms& forms) {
    if (forms.codes != nullptr) return;
    const std::int64_t blocks = x.rows * (x.cols / 32);
    auto* codes = take<std::int8_t>(exec, x.rows * x.cols);
    auto* scales = take<float>(exec, blocks);
    auto* sums = take<float>(exec, 2 * blocks);
    launch(exec, cuda::supports_quantise_i8, cuda::quantise_i8,
           cuda::QuantiseI8{.x = floats(x),
                            .rows = x.rows,
                            .cols = x.cols,
                            .stride = x.stride,
                            .codes = codes,
                            .scales = scales,
                            .sums = sums});
    forms.codes = codes, forms.scales = scales, forms.sums = sums;
}

const std::uint16_t* narrow(const Exec& exec, View x, LayoutId layout, InputForms& forms) {
    const std::uint16_t*& form = layout == LayoutId::k_f16 ? forms.f16 : forms.bf16;
    if (form != nullptr) return form;
    auto* out = take<std::uint16_t>(exec, x.rows * x.cols);
    launch(exec, cuda::supports_narrow, cuda::narrow,
           cuda::Narrow{.x = floats(x),
                        .rows = x.rows,
                        .cols = x.cols,
                        .stride = x.stride,
                        .layout = layout,
                        .out = out});
    form = out;
    return form;
}

void of_planes(const Exec& exec, View x, InputForms& forms, const Matmul& p) {
    const int bits = plane_bits(exec.activations);
    if (forms.planes == nullptr) {
        auto* planes = take<std::uint32_t>(exec, x.rows * bits * plane_words(x.cols));
        auto* scales = take<float>(exec, x.rows);
        launch(exec, cuda::supports_encode_planes, cuda::encode_planes,
               cuda::EncodePlanes{.x = floats(x),
                                  .rows = x.rows,
                                  .cols = x.cols,
                                  .stride = x.stride,
                                  .bits = bits,
                                  .planes = planes,
                                  .scales = scales});
        forms.planes = planes, forms.plane_scales = scales;
    }
    const cuda::MatmulPlanes problem{.weight = matrix(p.weight),
                                     .x = forms.planes,
                                     .x_scales = forms.plane_scales,
                                     .x_bits = bits,
                                     .tokens = x.rows,
                                     .out = floats(p.out),
                                     .out_stride = p.out.stride,
                                     .bias = p.bias ? floats(*p.bias) : nullptr,
                                     .accumulate = p.accumulate};
    if (cuda::supports_matvec_planes(problem))
        return launch(exec, cuda::supports_matvec_planes, cuda::matvec_planes, problem);
    launch(exec, cuda::supports_matmul_planes, cuda::matmul_planes, problem);
}

void few(const Exec& exec, View x, InputForms& forms, const Matmul& p, bool exact) {
    cuda::Matmul problem = problem_of(x, p);
    if (is_half(p.weight.layout) && cuda::supports_matvec_half(problem))
        return launch(exec, cuda::supports_matvec_half, cuda::matvec_half, problem);
    if (!exact && has_byte_products(p.weight)) {
        quantise(exec, x, forms);
        problem.codes = forms.codes, problem.scales = forms.scales, problem.sums = forms.sums;
        if (cuda::supports_matvec_i8(problem))
            return launch(exec, cuda::supports_matvec_i8, cuda::matvec_i8, problem);
    }
    launch(exec, cuda::supports_matvec, cuda::matvec, problem);
}

std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

// Rows decoded at a time: what an L2 cache of 40 MiB or more still holds when they are multiplied.
std::int64_t decoded_rows(std::int64_t cols) {
    constexpr std::int64_t kMostRows = 8192, kMostBytes = std::int64_t{32} << 20;
    return std::clamp<std::int64_t>(kMostBytes / (2 * std::max<std::int64_t>(cols, 1)), 1,
                                    kMostRows);
}

// Products of 16-bit weights and inputs, sums in float.
void multiply_halves(const Exec& exec, const cuda::Matrix& weight, const std::uint16_t* x, View out,
                     bool accumulate) {
    launch(exec, cuda::supports_gemm, cuda::gemm,
           cuda::Gemm{.blas = &exec.cuda->blas(),
                      .weight = weight,
                      .x = x,
                      .tokens = out.rows,
                      .out = floats(out),
                      .out_stride = out.stride,
                      .accumulate = accumulate});
}

void multiply_decoded(const Exec& exec, const Matmul& p, const std::uint16_t* x) {
    const cuda::Matrix stored = matrix(p.weight);
    const std::int64_t most = decoded_rows(stored.cols);
    const WorkspaceScope scope(*exec.workspace);
    auto* rows = take<std::uint16_t>(exec, most * stored.cols);
    cuda::Matrix tile{.layout = LayoutId::k_bf16,
                      .params = {},
                      .planes = {reinterpret_cast<const std::byte*>(rows)},
                      .row_bytes = {static_cast<std::size_t>(2 * stored.cols)},
                      .rows = 0,
                      .cols = stored.cols};
    for (std::int64_t first = 0; first < stored.rows; first += most) {
        tile.rows = std::min(most, stored.rows - first);
        launch(exec, cuda::supports_decode_rows, cuda::decode_rows,
               cuda::DecodeRows{.matrix = stored,
                                .first = first,
                                .count = tile.rows,
                                .out = nullptr,
                                .out_stride = stored.cols,
                                .bf16 = rows});
        multiply_halves(exec, tile, x, p.out.slice_cols(first, tile.rows), p.accumulate);
    }
}

void many(const Exec& exec, View x, InputForms& forms, const Matmul& p, bool exact) {
    if (exact || p.weight.layout == LayoutId::k_f32)
        return launch(exec, cuda::supports_matmul, cuda::matmul, problem_of(x, p));
    if (is_half(p.weight.layout))
        multiply_halves(exec, matrix(p.weight), narrow(exec, x, p.weight.layout, forms), p.out,
                        p.accumulate);
    else
        multiply_decoded(exec, p, narrow(exec, x, LayoutId::k_bf16, forms));
    if (p.bias) {
        View bias = *p.bias;
        bias.rows = p.out.rows, bias.stride = 0;  // the same for every token
        add(exec, p.out, bias, p.out);
    }
}

}  // namespace

void matmul(const Exec& exec, View x, InputForms& forms, const Matmul& problem) {
    if (x.rows == 0) return;
    if (problem.weight.layout == LayoutId::k_bipolar && plane_bits(exec.activations) != 0)
        return of_planes(exec, x, forms, problem);
    const bool exact = exec.activations == Activations::kF32;
    if (x.rows <= cuda::kMatvecTokens) return few(exec, x, forms, problem, exact);
    many(exec, x, forms, problem, exact);
}

std::size_t matmul_input_bytes(const Exec& exec, std::int64_t tokens, std::int64_t in) {
    if (exec.activations == Activations::kF32) return 0;
    const std::int64_t blocks = std::min(tokens, cuda::kMatvecTokens) * (in / 32);
    const auto few_bytes = aligned(static_cast<std::size_t>(32 * blocks)) +
                           aligned(static_cast<std::size_t>(blocks) * sizeof(float)) +
                           aligned(static_cast<std::size_t>(2 * blocks) * sizeof(float));
    const std::size_t many_bytes =
        tokens > cuda::kMatvecTokens ? 2 * aligned(static_cast<std::size_t>(2 * tokens * in)) : 0;
    const std::size_t decoded_bytes =
        tokens > cuda::kMatvecTokens ? aligned(static_cast<std::size_t>(2 * decoded_rows(in) * in))
                                     : 0;
    const std::int64_t words = tokens * plane_bits(exec.activations) * plane_words(in);
    const std::size_t plane_bytes =
        words == 0 ? 0
                   : aligned(static_cast<std::size_t>(words) * sizeof(std::uint32_t)) +
                         aligned(static_cast<std::size_t>(tokens) * sizeof(float));
    // Matrices of other layouts may share the input.
    return std::max(few_bytes, many_bytes + decoded_bytes) + plane_bytes;
}

}  // namespace thimble::ops::on_cuda
