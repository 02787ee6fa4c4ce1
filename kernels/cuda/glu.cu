// SPDX-License-Identifier: Apache-2.0
// Gated activations: four columns a thread. Floor: 12 bytes moved per element. No shared memory;
// occupancy is bound by nothing but the size.
#include "kernels/cuda/device/four.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

template <Activation activation>
__device__ __forceinline__ float gated(float gate, float up, float least) {
    // gelu: 0.5 (1 + tanh(y)) = 1 / (1 + e^-2y), which loses nothing where tanh(y) is near -1;
    // y = sqrt(2 / pi) (gate + 0.044715 gate^3).
    const float exponent = activation == Activation::kSilu
                               ? gate
                               : 2.0f * gate * (gate * gate * 0.0356774081f + 0.7978845608f);
    const float a = gate / (1.0f + expf(-exponent));
    return fabsf(a) <= least ? 0.0f : a * up;
}

template <Activation activation>
__global__ void __launch_bounds__(kFourThreads) glu_kernel(Glu p) {
    const FourAt at = four_at(p.rows, p.cols);
    if (at.count == 0) return;
    const float4 g = load_four(p.gate + at.row * p.gate_stride + at.col, at.count);
    const float4 u = load_four(p.up + at.row * p.up_stride + at.col, at.count);
    // No size is below zero.
    float4 least = make_float4(-1.0f, -1.0f, -1.0f, -1.0f);
    if (p.least != nullptr) least = load_four(p.least + at.col, at.count);
    store_four(
        p.out + at.row * p.out_stride + at.col,
        make_float4(gated<activation>(g.x, u.x, least.x), gated<activation>(g.y, u.y, least.y),
                    gated<activation>(g.z, u.z, least.z), gated<activation>(g.w, u.w, least.w)),
        at.count);
}

}  // namespace

bool supports_glu(const Glu& p) noexcept { return p.cols > 0; }

void glu(const Glu& p, Stream& stream) {
    auto* kernel = p.activation == Activation::kSilu ? glu_kernel<Activation::kSilu>
                                                     : glu_kernel<Activation::kGeluTanh>;
    launch("glu", kernel, four_shape(p.rows, p.cols), stream, p);
}

}  // namespace thimble::cuda
