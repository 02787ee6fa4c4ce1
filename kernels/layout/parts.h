// SPDX-License-Identifier: Apache-2.0
// Blocks of more than 32 weights also decode in parts of 32, which is what one thread of a device
// holds in registers. Their layouts have
//   template <class Real> static void unpack_part(const Block&, int part, Real* out /* [32] */);
#pragma once

#include "kernels/layout/rng.h"  // THIMBLE_HOST_DEVICE

namespace thimble {

inline constexpr int kPartElements = 32;

// A block of the layout L, part by part. Unrolled, each part's shifts and offsets are constants,
// which GCC does not see by itself: up to twice as fast. (Devices decode single parts.)
template <class L, class Real>
THIMBLE_HOST_DEVICE inline void unpack_parts(const typename L::Block& block, Real* out) {
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#pragma GCC unroll 8
#endif
    for (int part = 0; part < L::kElements / kPartElements; ++part)
        L::unpack_part(block, part, out + kPartElements * part);
}

}  // namespace thimble
