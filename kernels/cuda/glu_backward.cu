// SPDX-License-Identifier: Apache-2.0
// Backward of gated activations: four columns a thread, which reads all that it needs before it
// writes. Floor: 20 bytes moved per element. No shared memory; occupancy is bound by nothing but
// the size.
#include "kernels/cuda/device/four.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

struct Slope {
    float value, slope;  // of the activation
};

// With s = 1 / (1 + e^-y): silu(g) = g s with y = g; gelu(g) = g s with y = 2 g (a + b g^2), as in
// glu.cu. Its slope is s + g s (1 - s) y'.
template <Activation activation>
__device__ __forceinline__ Slope slope_of(float g) {
    const bool silu = activation == Activation::kSilu;
    const float y = silu ? g : 2.0f * g * (g * g * 0.0356774081f + 0.7978845608f);
    const float dy = silu ? 1.0f : g * g * (6.0f * 0.0356774081f) + 2.0f * 0.7978845608f;
    const float s = 1.0f / (1.0f + expf(-y));
    return {g * s, s * (1.0f + g * (1.0f - s) * dy)};
}

template <Activation activation>
__global__ void __launch_bounds__(kFourThreads) glu_backward_kernel(GluBackward p) {
    const FourAt at = four_at(p.rows, p.cols);
    if (at.count == 0) return;
    const float4 g = load_four(p.gate + at.row * p.gate_stride + at.col, at.count);
    const float4 u = load_four(p.up + at.row * p.up_stride + at.col, at.count);
    const float4 d = load_four(p.dy + at.row * p.dy_stride + at.col, at.count);
    const Slope a = slope_of<activation>(g.x), b = slope_of<activation>(g.y),
                c = slope_of<activation>(g.z), e = slope_of<activation>(g.w);
    store_four(p.dgate + at.row * p.dgate_stride + at.col,
               make_float4(d.x * u.x * a.slope, d.y * u.y * b.slope, d.z * u.z * c.slope,
                           d.w * u.w * e.slope),
               at.count);
    store_four(p.dup + at.row * p.dup_stride + at.col,
               make_float4(d.x * a.value, d.y * b.value, d.z * c.value, d.w * e.value), at.count);
}

}  // namespace

bool supports_glu_backward(const GluBackward& p) noexcept { return p.cols > 0; }

void glu_backward(const GluBackward& p, Stream& stream) {
    auto* kernel = p.activation == Activation::kSilu ? glu_backward_kernel<Activation::kSilu>
                                                     : glu_backward_kernel<Activation::kGeluTanh>;
    launch("glu_backward", kernel, four_shape(p.rows, p.cols), stream, p);
}

}  // namespace thimble::cuda
