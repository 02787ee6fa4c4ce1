// SPDX-License-Identifier: Apache-2.0
// fp8: E4M3 values and a scale for each group of columns: a float (as compressed-tensors has them),
// or a power of two for every 32 (MXFP8 of the "OCP Microscaling Formats (MX) Specification" 1.0,
// 2023).
//   w[k] = e4m3(code[k]) * scale[g]                                    g = k / group
//
//   plane 0  codes   [columns] u8
//   plane 1  scales  [groups] f32, or u8: 2^(d - 127), d at most 252
#pragma once

#include "kernels/layout/e2m1.h"
#include "kernels/layout/e4m3.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_fp8> {
    enum Plane : int { kCodes, kScales };
    static constexpr int kPlanes = 2;
    static constexpr int kElements = 32;

    THIMBLE_HOST_DEVICE static float scale_at(const PackedRow& row, std::int64_t g) {
        if (row.params.scale == ScaleType::kE8m0)
            return 2 * e8m0_half_to_f32(static_cast<const std::uint8_t*>(row.planes[kScales])[g]);
        return static_cast<const float*>(row.planes[kScales])[g];
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const auto* codes = static_cast<const std::uint8_t*>(row.planes[kCodes]) + first;
        for (std::int64_t k = 0; k < count; k += kElements) {
            const Real scale = static_cast<Real>(scale_at(row, (first + k) / row.params.group));
            for (int i = 0; i < kElements; ++i)
                out[k + i] = scale * static_cast<Real>(e4m3_to_f32(codes[k + i]));
        }
    }
};

}  // namespace thimble
