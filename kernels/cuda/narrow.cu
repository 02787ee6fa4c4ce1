// SPDX-License-Identifier: Apache-2.0
// Floats to f16 or bf16: a thread takes four columns of a row, or one where rows do not divide.
// Floor: 6 bytes moved per element. No shared memory; occupancy is bound by nothing but the number
// of elements.
#include "kernels/cuda/device/halves.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

template <LayoutId id, int kEach>
__global__ void __launch_bounds__(kThreads) narrow_kernel(Narrow p) {
    const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kEach;
    if (at >= p.rows * p.cols) return;
    const float* x = p.x + at / p.cols * p.stride + at % p.cols;
    if constexpr (kEach == 1) {
        p.out[at] = narrowed<id>(*x);
    } else {
        store_vector(p.out + at,
                     uint2{narrowed_pair<id>(x[0], x[1]), narrowed_pair<id>(x[2], x[3])});
    }
}

}  // namespace

bool supports_narrow(const Narrow& p) noexcept {
    return (p.layout == LayoutId::k_f16 || p.layout == LayoutId::k_bf16) && p.cols > 0;
}

void narrow(const Narrow& p, Stream& stream) {
    const bool half = p.layout == LayoutId::k_f16, four = p.cols % 4 == 0;
    auto* kernel = half ? narrow_kernel<LayoutId::k_f16, 1> : narrow_kernel<LayoutId::k_bf16, 1>;
    if (four)
        kernel = half ? narrow_kernel<LayoutId::k_f16, 4> : narrow_kernel<LayoutId::k_bf16, 4>;
    launch("narrow", kernel, {blocks_for(p.rows * p.cols, kThreads * (four ? 4 : 1)), kThreads},
           stream, p);
}

}  // namespace thimble::cuda
