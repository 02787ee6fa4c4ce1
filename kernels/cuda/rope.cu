// SPDX-License-Identifier: Apache-2.0
// Rotary positions in place: one block of 256 threads per token, which first works out the token's
// sines and cosines in double, once for all heads. Floor: 8 bytes moved per rotated element. Shared
// memory: 4 KiB, of which 4 bytes per rotated dim are used. Occupancy is bound by the number of
// tokens; with one (decode) the launch and one sincos are the cost.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostPairs = 512;

__global__ void __launch_bounds__(kThreads) rope_kernel(RopeRows p) {
    THIMBLE_SHARED(float2, turns, kMostPairs);
    const int pairs = p.dims / 2;
    const auto position = static_cast<double>(p.positions[blockIdx.x]);
    for (int i = threadIdx.x; i < pairs; i += kThreads) {
        double sine, cosine;
        sincos(position * p.frequencies[i], &sine, &cosine);
        turns[i] = make_float2(static_cast<float>(cosine), static_cast<float>(sine));
    }
    __syncthreads();
    float* x = p.x + blockIdx.x * p.stride;
    for (int i = threadIdx.x; i < p.heads * pairs; i += kThreads) {
        const int pair = i % pairs;
        float* head = x + i / pairs * p.head_dim;
        float* first = head + (p.halves ? pair : 2 * pair);
        float* second = first + (p.halves ? pairs : 1);
        const float2 turn = turns[pair];
        const float a = *first, b = *second;
        *first = a * turn.x - b * turn.y;
        *second = a * turn.y + b * turn.x;
    }
}

}  // namespace

bool supports_rope(const RopeRows& p) noexcept {
    return p.dims > 0 && p.dims % 2 == 0 && p.dims <= p.head_dim && p.dims / 2 <= kMostPairs;
}

void rope(const RopeRows& p, Stream& stream) {
    launch("rope", rope_kernel, {static_cast<unsigned>(p.tokens), kThreads}, stream, p);
}

}  // namespace thimble::cuda
