// SPDX-License-Identifier: Apache-2.0
// affine: codes of 2, 3, 4 or 8 bits; a scale and a zero point for each group of columns of a row.
//   w[k] = scale[g] * (code[k] - zero[g])        g = k / group, or groups[k]
//
//   plane 0  codes   a row's codes one after the other, the lowest bit of the row first
//   plane 1  scales  [groups] f32, f16 or bf16
//   plane 2  zeros   [groups] u8; without it every zero point is 2^(bits - 1)
//   plane 3  groups  [columns] u16, one table for all rows: which group a column belongs to;
//                    without it, group after group
// What GPTQ ("GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
// 2023) and AWQ ("AWQ: Activation-aware Weight Quantization", 2024) checkpoints hold.
#pragma once

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
    THIMBLE_HOST_DEVICE static int zero_at(const PackedRow& row, std::int64_t g) {
        const auto* zeros = static_cast<const std::uint8_t*>(row.planes[kZeros]);
        return zeros != nullptr ? zeros[g] : 1 << (row.params.bits - 1);
    }
    // 32 codes from 4 * bits bytes.
    template <int bits>
    THIMBLE_HOST_DEVICE static void unpack_codes(const std::uint8_t* from, std::uint8_t* codes) {
        if constexpr (bits == 3) {
            for (int i = 0; i < 4; ++i) {
                const unsigned word = from[3 * i] | static_cast<unsigned>(from[3 * i + 1]) << 8 |
                                      static_cast<unsigned>(from[3 * i + 2]) << 16;
                for (int j = 0; j < 8; ++j)
                    codes[8 * i + j] = static_cast<std::uint8_t>(word >> (3 * j) & 7);
            }
        } else {
            constexpr int kPerByte = 8 / bits;
            for (int i = 0; i < 4 * bits; ++i) {
                for (int j = 0; j < kPerByte; ++j)
                    codes[kPerByte * i + j] =
                        static_cast<std::uint8_t>(from[i] >> (bits * j) & ((1 << bits) - 1));
            }
        }
    }
    THIMBLE_HOST_DEVICE static void unpack_codes(int bits, const std::uint8_t* from,
                                                 std::uint8_t* codes) {
        switch (bits) {
            case 2:
                return unpack_codes<2>(from, codes);
            case 3:
                return unpack_codes<3>(from, codes);
            case 4:
                return unpack_codes<4>(from, codes);
            default:
                return unpack_codes<8>(from, codes);
        }
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
            if (groups == nullptr) {
                const std::int64_t g = (first + k) / row.params.group;
                const Real scale = static_cast<Real>(scale_at(row, g));
                const int zero = zero_at(row, g);
                for (int i = 0; i < kElements; ++i)
                    out[k + i] = scale * static_cast<Real>(codes[i] - zero);
                continue;
            }
            for (int i = 0; i < kElements; ++i) {
                const std::int64_t g = groups[first + k + i];
                out[k + i] = static_cast<Real>(scale_at(row, g)) *
                             static_cast<Real>(codes[i] - zero_at(row, g));
            }
        }
    }
};

}  // namespace thimble
