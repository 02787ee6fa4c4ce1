// SPDX-License-Identifier: Apache-2.0
// bfp: block floating point: codes of a block share an exponent, the scale is a power of two
// ("Accurate Block Quantization in LLMs with Outliers", 2024).
//   w[k] = (code[k] - 2^(bits - 1)) * 2^(d[b] - 128)                   b = k / group
//
//   plane 0  codes      a row's codes one after the other, the lowest bit of the row first
//   plane 1  exponents  [blocks] u8: d, at most 252
#pragma once

#include "kernels/layout/code_bits.h"
#include "kernels/layout/e2m1.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_bfp> {
    enum Plane : int { kCodes, kExponents };
    static constexpr int kPlanes = 2;
    static constexpr int kElements = 32;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const int bits = row.params.bits, middle = 1 << (bits - 1);
        const auto* from = static_cast<const std::uint8_t*>(row.planes[kCodes]) + first / 8 * bits;
        const auto* exponents = static_cast<const std::uint8_t*>(row.planes[kExponents]);
        std::uint8_t codes[kElements];
        for (std::int64_t k = 0; k < count; k += kElements, from += 4 * bits) {
            unpack_codes(bits, from, codes);
            for (int i = 0; i < kElements; ++i) {
                const std::uint8_t d = exponents[(first + k + i) / row.params.group];
                out[k + i] =
                    static_cast<Real>(e8m0_half_to_f32(d)) * static_cast<Real>(codes[i] - middle);
            }
        }
    }
};

}  // namespace thimble
