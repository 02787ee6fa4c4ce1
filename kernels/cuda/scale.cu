// SPDX-License-Identifier: Apache-2.0
// A matrix times a number, in place: four columns a thread. Floor: 8 bytes moved per element. No
// shared memory; occupancy is bound by nothing but the size.
#include "kernels/cuda/device/four.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

__global__ void __launch_bounds__(kFourThreads) scale_kernel(Scale p) {
    const FourAt at = four_at(p.rows, p.cols);
    if (at.count == 0) return;
    float* x = p.x + at.row * p.stride + at.col;
    const float4 v = load_four(x, at.count);
    store_four(x, make_float4(v.x * p.factor, v.y * p.factor, v.z * p.factor, v.w * p.factor),
               at.count);
}

}  // namespace

bool supports_scale(const Scale& p) noexcept { return p.cols > 0; }

void scale(const Scale& p, Stream& stream) {
    launch("scale", scale_kernel, four_shape(p.rows, p.cols), stream, p);
}

}  // namespace thimble::cuda
