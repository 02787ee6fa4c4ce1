// SPDX-License-Identifier: Apache-2.0
// nvfp4: E2M1 codes with an E4M3 scale for every 16 columns and one float for the matrix, as
// ModelOpt's checkpoints hold them ("Pretraining Large Language Models with NVFP4", 2025).
//   w[k] = e2m1(code[k]) * e4m3(scales[k / 16]) * scale
//
//   plane 0  codes   byte i: low nibble = code of weight 2 i, high nibble = code of weight 2 i + 1
//   plane 1  scales  [columns / 16] u8, without sign
//   plane 2  scale   [1] f32, for all rows
#pragma once

#include "kernels/layout/e2m1.h"
#include "kernels/layout/e4m3.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_nvfp4> {
    enum Plane : int { kCodes, kScales, kScale };
    static constexpr int kPlanes = 3;
    static constexpr int kElements = 32;
    static constexpr int kGroup = 16;

    // Of E2m1::value, which is twice the code's.
    THIMBLE_HOST_DEVICE static float unit(const PackedRow& row) {
        return 0.5f * static_cast<const float*>(row.planes[kScale])[0];
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const auto* codes = static_cast<const std::uint8_t*>(row.planes[kCodes]) + first / 2;
        const auto* scales = static_cast<const std::uint8_t*>(row.planes[kScales]);
        const float matrix = unit(row);
        for (std::int64_t k = 0; k < count; k += kGroup) {
            const Real scale =
                static_cast<Real>(e4m3_to_f32(scales[(first + k) / kGroup]) * matrix);
            for (int i = 0; i < kGroup / 2; ++i) {
                const std::uint8_t both = codes[k / 2 + i];
                out[k + 2 * i] = scale * static_cast<Real>(E2m1::value(both & 15));
                out[k + 2 * i + 1] = scale * static_cast<Real>(E2m1::value(both >> 4));
            }
        }
    }
};

}  // namespace thimble
