// SPDX-License-Identifier: Apache-2.0
// bipolar: codes of 1 to 8 bits in which every bit counts +1 or -1 times its power of two: all odd
// numbers of [-(2^bits - 1), 2^bits - 1], no zero ("Accelerating Arbitrary-Precision LLMs with
// Bipolar-INT", AP-LLM, 2024).
//   w[k] = scale[g] * (2 u[k] - (2^bits - 1))      u: the code as a number; g = k / group
//
//   plane 0  planes  for every 32 columns `bits` words of 32 bits, those of value 1 first; bit i of
//                    a word belongs to column i
//   plane 1  scales  [groups] f16
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_bipolar> {
    enum Plane : int { kPlanesOfBits, kScales };
    static constexpr int kPlanes = 2;
    static constexpr int kElements = 32;

    THIMBLE_HOST_DEVICE static float scale_at(const PackedRow& row, std::int64_t g) {
        return f16_to_f32(static_cast<const std::uint16_t*>(row.planes[kScales])[g]);
    }
    THIMBLE_HOST_DEVICE static const std::uint8_t* words_at(const PackedRow& row,
                                                            std::int64_t first) {
        return static_cast<const std::uint8_t*>(row.planes[kPlanesOfBits]) +
               first / 8 * row.params.bits;
    }
    // The code of column `i` of the 32 whose words begin at `words`.
    THIMBLE_HOST_DEVICE static int code_at(const std::uint8_t* words, int bits, int i) {
        int code = 0;
        for (int b = 0; b < bits; ++b) code |= (words[4 * b + i / 8] >> (i % 8) & 1) << b;
        return code;
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const int bits = row.params.bits, most = (1 << bits) - 1;
        for (std::int64_t k = 0; k < count; k += kElements) {
            const std::uint8_t* words = words_at(row, first + k);
            const Real scale = static_cast<Real>(scale_at(row, (first + k) / row.params.group));
            for (int i = 0; i < kElements; ++i)
                out[k + i] = scale * static_cast<Real>(2 * code_at(words, bits, i) - most);
        }
    }
};

}  // namespace thimble
