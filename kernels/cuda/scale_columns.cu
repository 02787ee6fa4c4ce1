// SPDX-License-Identifier: Apache-2.0
// A factor and a bias of each column: four columns a thread. Floor: 8 bytes moved per element. No
// shared memory; occupancy is bound by nothing but the size.
#include "kernels/cuda/device/four.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

__global__ void __launch_bounds__(kFourThreads) scale_columns_kernel(ScaleColumns p) {
    const FourAt at = four_at(p.rows, p.cols);
    if (at.count == 0) return;
    float4 x = load_four(p.x + at.row * p.x_stride + at.col, at.count);
    if (p.factors != nullptr) {
        const float4 f = load_four(p.factors + at.col, at.count);
        x = make_float4(x.x * f.x, x.y * f.y, x.z * f.z, x.w * f.w);
    }
    if (p.bias != nullptr) {
        const float4 b = load_four(p.bias + at.col, at.count);
        x = make_float4(x.x + b.x, x.y + b.y, x.z + b.z, x.w + b.w);
    }
    store_four(p.out + at.row * p.out_stride + at.col, x, at.count);
}

}  // namespace

bool supports_scale_columns(const ScaleColumns& p) noexcept { return p.cols > 0; }

void scale_columns(const ScaleColumns& p, Stream& stream) {
    launch("scale_columns", scale_columns_kernel, four_shape(p.rows, p.cols), stream, p);
}

}  // namespace thimble::cuda
