// SPDX-License-Identifier: Apache-2.0
// nf4: 4-bit codes into a table of 16 values, scaled by the largest magnitude of their group, which
// may itself be an 8-bit code.
//   w[k] = values[code[k]] * peak[g]                                   g = k / group
//   peak[g] = peaks[g], or maps[peaks[g]] * nested[1 + n / 256] + nested[0]
//             n = origin + g: the group's number in the whole matrix as it was encoded
//
//   plane 0  codes   byte i: high nibble = code of weight 2 i, low nibble = code of weight 2 i + 1
//   plane 1  peaks   [groups] f32, or u8 (nested)
//   plane 2  values  [16] f32, and behind them maps [256] f32 (nested); for all rows
//   plane 3  origin  [1] i32: number of the row's first group when the peaks were encoded (nested)
//   plane 4  nested  [1 + encoded groups / 256] f32, for all rows (nested)
// "QLoRA: Efficient Finetuning of Quantized LLMs" (2023); the nibble order is bitsandbytes'. Any
// other 16 values (bitsandbytes' fp4) fit as well.
#pragma once

#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_nf4> {
    enum Plane : int { kCodes, kPeaks, kValues, kOrigin, kNested };
    static constexpr int kPlanes = 5;
    static constexpr int kElements = 32;
    static constexpr int kNestedGroup = 256;

    THIMBLE_HOST_DEVICE static float peak_at(const PackedRow& row, std::int64_t g) {
        if (row.params.scale != ScaleType::kNested)
            return static_cast<const float*>(row.planes[kPeaks])[g];
        const int code = static_cast<const std::uint8_t*>(row.planes[kPeaks])[g];
        const auto* nested = static_cast<const float*>(row.planes[kNested]);
        const std::int64_t n = static_cast<const std::int32_t*>(row.planes[kOrigin])[0] + g;
        const float map = static_cast<const float*>(row.planes[kValues])[16 + code];
        return map * nested[1 + n / kNestedGroup] + nested[0];
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const auto* codes = static_cast<const std::uint8_t*>(row.planes[kCodes]) + first / 2;
        const auto* values = static_cast<const float*>(row.planes[kValues]);
        for (std::int64_t k = 0; k < count; k += kElements) {
            const Real peak = static_cast<Real>(peak_at(row, (first + k) / row.params.group));
            for (int i = 0; i < kElements / 2; ++i) {
                const std::uint8_t both = codes[k / 2 + i];
                out[k + 2 * i] = static_cast<Real>(values[both >> 4]) * peak;
                out[k + 2 * i + 1] = static_cast<Real>(values[both & 15]) * peak;
            }
        }
    }
};

}  // namespace thimble
