// SPDX-License-Identifier: Apache-2.0
// The tensor cores' product of small matrices: D [16, 8] += A [16, 16] B [16, 8], D in float, A and
// B in f16 or bf16, spread over the lanes of a warp as PTX has it for mma.m16n8k16. Lane 4 g + q
// holds, each word two neighbours in k with the first in its lower half,
//   a[0] A[g][2q, 2q + 1]    a[1] A[g + 8][2q, 2q + 1]    a[2], a[3] the same 8 columns on
//   b[0] B[2q, 2q + 1][g]    b[1] B[2q + 8, 2q + 9][g]
//   d[0], d[1] D[g][2q, 2q + 1]    d[2], d[3] D[g + 8][2q, 2q + 1]
// The order of the sum over k is the device's own.
#pragma once

#include "kernels/cuda/device/halves.cuh"

namespace thimble::cuda {

#ifdef THIMBLE_CUDA_EMULATED

// All lanes of a warp.
template <LayoutId id>
void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                  int line = __builtin_LINE()) {
    struct Given {
        float2 a[4], b[2];
    };
    const Given mine{
        {floats_of<id>(a[0]), floats_of<id>(a[1]), floats_of<id>(a[2]), floats_of<id>(a[3])},
        {floats_of<id>(b[0]), floats_of<id>(b[1])}};
    const auto* slots = emu::warp_exchange(0xffffffffu, line, &mine, sizeof mine);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    for (unsigned k = 0; k < 16; k += 2) {
        const unsigned from = k % 8 / 2, far = k / 8;  // lane of four; second half of k
        const auto row = emu::slot<Given>(slots, 4 * g + from);
        for (unsigned i = 0; i < 2; ++i) {
            const float2 x = emu::slot<Given>(slots, 4 * (2 * q + i) + from).b[far];
            d[i] += row.a[2 * far].x * x.x + row.a[2 * far].y * x.y;
            d[2 + i] += row.a[2 * far + 1].x * x.x + row.a[2 * far + 1].y * x.y;
        }
    }
}

#else

template <LayoutId id>
__device__ __forceinline__ void multiply_add(float (&d)[4], const unsigned (&a)[4],
                                             const unsigned (&b)[2]) {
    if constexpr (id == LayoutId::k_bf16) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
}

#endif

}  // namespace thimble::cuda
