// SPDX-License-Identifier: Apache-2.0
// The tensor cores' product of small matrices of bits: D [16, 8] += the number of k in which A
// [16, 256] and B [256, 8] differ, spread over the lanes of a warp as PTX has it for
// mma.m16n8k256.b1. Words are of 32 neighbours in k; lane 4 g + q holds
//   a[0] A[g] word q    a[1] A[g + 8] word q    a[2], a[3] the same rows' word q + 4
//   b[0] B word q of column g    b[1] word q + 4
//   d[0], d[1] D[g][2q, 2q + 1]    d[2], d[3] D[g + 8][2q, 2q + 1]
// Devices of capability 8.x have the exclusive or; 9.0 has only the conjunction, twice of which is
// one. On later ones ptxas makes either of products of bytes.
#pragma once

#include "kernels/cuda/device/launch.cuh"

namespace thimble::cuda {

#ifdef THIMBLE_CUDA_EMULATED

// All lanes of a warp.
inline void count_differing(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                            int line = __builtin_LINE()) {
    struct Given {
        unsigned a[4], b[2];
    };
    const Given mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const auto* slots = emu::warp_exchange(0xffffffffu, line, &mine, sizeof mine);
    const unsigned lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    for (unsigned word = 0; word < 8; ++word) {
        const auto row = emu::slot<Given>(slots, 4 * g + word % 4);
        for (unsigned i = 0; i < 2; ++i) {
            const auto column = emu::slot<Given>(slots, 4 * (2 * q + i) + word % 4);
            for (unsigned half = 0; half < 2; ++half)
                d[2 * half + i] += __popc(row.a[2 * (word / 4) + half] ^ column.b[word / 4]);
        }
    }
}

#else

// `operation`: xor or and.
#define THIMBLE_BIT_MMA(operation, d, a0, a1, a2, a3, b0, b1)                   \
    asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32." operation           \
        ".popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+r"((d)[0]), "+r"((d)[1]), "+r"((d)[2]), "+r"((d)[3])                \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

__device__ __forceinline__ void count_differing(int (&d)[4], const unsigned (&a)[4],
                                                const unsigned (&b)[2]) {
#if __CUDA_ARCH__ == 900
    THIMBLE_BIT_MMA("and", d, a[0], a[1], a[2], a[3], ~b[0], ~b[1]);
    THIMBLE_BIT_MMA("and", d, ~a[0], ~a[1], ~a[2], ~a[3], b[0], b[1]);
#else
    THIMBLE_BIT_MMA("xor", d, a[0], a[1], a[2], a[3], b[0], b[1]);
#endif
}

#undef THIMBLE_BIT_MMA

#endif

}  // namespace thimble::cuda
