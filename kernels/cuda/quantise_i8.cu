// SPDX-License-Identifier: Apache-2.0
// Activations to 8-bit codes in blocks of 32 columns: eight threads per block, four columns each.
// Floor: 5.4 bytes moved per element. No shared memory; occupancy is bound by nothing but the
// number of elements.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256, kLanes = 8;  // of a block of columns

__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }

__global__ void __launch_bounds__(kThreads) quantise_i8_kernel(QuantiseI8 p) {
    const std::int64_t blocks = p.cols / 32;  // of a row
    const std::int64_t thread = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const std::int64_t block = thread / kLanes;
    const bool here = block < p.rows * blocks;  // all lanes stay for the shuffles
    const std::int64_t row = here ? block / blocks : 0;
    const int lane = static_cast<int>(thread % kLanes);
    const float* x = p.x + row * p.stride + block % blocks * 32 + 4 * lane;
    float values[4] = {};
    // Without their signs, floats are ordered as their bits are, NaN highest.
    int top = 0;
    for (int i = 0; i < 4; ++i) {
        if (here) values[i] = x[i];
        top = larger(top, __float_as_int(values[i]) & 0x7fffffff);
    }
    for (int i = kLanes / 2; i > 0; i /= 2) top = larger(top, __shfl_xor_sync(kAllLanes, top, i));
    const float magnitude = __int_as_float(top);
    // A NaN or infinity makes the block's scale NaN, so that it shows in every output.
    const float scale = (magnitude - magnitude) + magnitude / 127.0f;
    // Below, the reciprocal would overflow: such a block is zero.
    const float inverse = magnitude > 1e-30f ? 127.0f / magnitude : 0.0f;
    unsigned codes = 0;
    int sum = 0;
    for (int i = 0; i < 4; ++i) {
        const int code = __float2int_rn(values[i] * inverse);
        codes |= (static_cast<unsigned>(code) & 255u) << (8 * i);
        sum += code;
    }
    for (int i = kLanes / 4; i > 0; i /= 2) sum += __shfl_xor_sync(kAllLanes, sum, i);
    if (!here) return;
    store_vector(p.codes + 32 * block + 4 * lane, codes);
    if (lane == 0) p.scales[block] = scale;
    if (lane % 4 == 0) p.sums[2 * block + lane / 4] = scale * static_cast<float>(sum);
}

}  // namespace

bool supports_quantise_i8(const QuantiseI8& p) noexcept { return p.cols > 0 && p.cols % 32 == 0; }

void quantise_i8(const QuantiseI8& p, Stream& stream) {
    launch("quantise_i8", quantise_i8_kernel,
           {blocks_for(p.rows * (p.cols / 32) * kLanes, kThreads), kThreads}, stream, p);
}

}  // namespace thimble::cuda
