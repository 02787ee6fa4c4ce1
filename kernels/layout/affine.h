// SPDX-License-Identifier: Apache-2.0
// affine: codes of 2 to 8 bits; a scale and a zero point for each group of columns of a row.
//   w[k] = scale[g] * (code[k] - zero[g])        g = k / group, or groups[k]
//
//   plane 0  codes   a row's codes one after the other, the lowest bit of the row first
//   plane 1  scales  [groups] f32, f16 or bf16
//   plane 2  zeros   [groups] u8, in units of 2^-zero_bits; without it every zero point is
//                    2^(bits - 1)
//   plane 3  groups  [columns] u16, one table for all rows: which group a column belongs to;
//                    without it, group after group
// What GPTQ ("GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
// 2023) and AWQ ("AWQ: Activation-aware Weight Quantization", 2024) checkpoints hold.
#pragma once

#include "kernels/layout/code_bits.h"
#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_affine> {
    enum Plane : int { kCodes, kScales, kZeros, kGroups };
    static constexpr int kPlanes = 4;
    static constexpr int kElements = 32;  // 32 codes are whole bytes, whatever their bits

    THIMBLE_HOST_DEVICE static float scale_at(const PackedRow& row, std::int64_t g) {
        switch (row.params.scale) {
            case ScaleType::kF16:
                return f16_to_f32(static_cast<const std::uint16_t*>(row.planes[kScales])[g]);
            case ScaleType::kBF16:
                return bf16_to_f32(static_cast<const std::uint16_t*>(row.planes[kScales])[g]);
            default:
                return static_cast<const float*>(row.planes[kScales])[g];
        }
    }
    THIMBLE_HOST_DEVICE static constexpr float zero_unit(int zero_bits) {
        return 1.0f / static_cast<float>(1 << zero_bits);
    }
    THIMBLE_HOST_DEVICE static float zero_at(const PackedRow& row, std::int64_t g) {
        const auto* zeros = static_cast<const std::uint8_t*>(row.planes[kZeros]);
        return zeros != nullptr ? static_cast<float>(zeros[g]) * zero_unit(row.params.zero_bits)
                                : static_cast<float>(1 << (row.params.bits - 1));
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const auto* from = static_cast<const std::uint8_t*>(row.planes[kCodes]) +
                           first / kElements * 4 * row.params.bits;
        const auto* groups = static_cast<const std::uint16_t*>(row.planes[kGroups]);
        std::uint8_t codes[kElements];
        for (std::int64_t k = 0; k < count; k += kElements, from += 4 * row.params.bits) {
            unpack_codes(row.params.bits, from, codes);
            if (groups == nullptr && row.params.group % kElements == 0) {
                const std::int64_t g = (first + k) / row.params.group;
                const Real scale = static_cast<Real>(scale_at(row, g));
                const Real zero = static_cast<Real>(zero_at(row, g));
                for (int i = 0; i < kElements; ++i)
                    out[k + i] = scale * (static_cast<Real>(codes[i]) - zero);
                continue;
            }
            for (int i = 0; i < kElements; ++i) {
                const std::int64_t column = first + k + i;
                const std::int64_t g =
                    groups != nullptr ? groups[column] : column / row.params.group;
                out[k + i] = static_cast<Real>(scale_at(row, g)) *
                             (static_cast<Real>(codes[i]) - static_cast<Real>(zero_at(row, g)));
            }
        }
    }
};

}  // namespace thimble
