// SPDX-License-Identifier: Apache-2.0
// sparse: only the weights that are not zero, and a bit for each weight that says which those are
// ("A Simple and Effective Pruning Approach for Large Language Models" (Wanda), 2024, and
// "SparseGPT", 2023, make such matrices; the layout is ours).
//   w[k] = value[n]                        bit k of the mask is set, n set bits stand before it
//   w[k] = scale[g] * code[n]              the same of codes; g = k / group
//   w[k] = 0                               elsewhere
//
//   plane 0  mask    [columns / 8] u8: column k is bit k % 8 of byte k / 8
//   plane 1  values  [slots] f16 or bf16; or codes, [slots] i8, or [slots / 2] u8 of two codes of 4
//                    bits, the lower first, as code + 8. What follows the row's last is zero
//   plane 2  scales  [columns / group] f16, of codes
// Every row has as many slots as the fullest row of the matrix needs, so rows begin where a product
// says, and a piece of a matrix is a matrix. Bits per weight: 1 + b * slots / columns (+ 16 /
// group), b = 16, 8 or 4. All of N:M and all that is pruned to a share of each row fill every slot;
// what is pruned to a share of the matrix pays for the fullest row (results/pruning.md has how
// much). For 2:4 a bit per weight is what two indices of 2 bits for every 4 weights cost, too.
// Groups of scales are of columns, not of kept weights: which scale a code has does not depend on
// the mask. Neither zero is kept: -0 is read as +0. The place of column k is found by counting the
// bits before it, a word of 32 columns at a time.
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_sparse> {
    enum Plane : int { kMask, kValues, kScales };
    static constexpr int kPlanes = 3;
    static constexpr int kElements = 32;
    static constexpr int kCodeOffset = 8;  // of 4-bit codes

    THIMBLE_HOST_DEVICE static int bits_set(std::uint32_t word) {
#ifdef __CUDA_ARCH__
        return __popc(word);
#else
        return __builtin_popcount(word);
#endif
    }
    // Columns 32 word .. 32 word + 31.
    THIMBLE_HOST_DEVICE static std::uint32_t mask_word(const PackedRow& row, std::int64_t word) {
        const auto* mask = static_cast<const std::uint8_t*>(row.planes[kMask]) + 4 * word;
        return static_cast<std::uint32_t>(mask[0]) | static_cast<std::uint32_t>(mask[1]) << 8 |
               static_cast<std::uint32_t>(mask[2]) << 16 |
               static_cast<std::uint32_t>(mask[3]) << 24;
    }
    // Weights kept before column `first`, a multiple of 32.
    THIMBLE_HOST_DEVICE static std::int64_t kept_before(const PackedRow& row, std::int64_t first) {
        std::int64_t kept = 0;
        for (std::int64_t word = 0; word < first / 32; ++word)
            kept += bits_set(mask_word(row, word));
        return kept;
    }
    THIMBLE_HOST_DEVICE static bool has_codes(const LayoutParams& params) {
        return params.bits < 16;
    }
    THIMBLE_HOST_DEVICE static float value_at(const PackedRow& row, std::int64_t n) {
        const std::uint16_t half = static_cast<const std::uint16_t*>(row.planes[kValues])[n];
        return row.params.scale == ScaleType::kBF16 ? bf16_to_f32(half) : f16_to_f32(half);
    }
    THIMBLE_HOST_DEVICE static int code_at(const PackedRow& row, std::int64_t n) {
        if (row.params.bits == 8) return static_cast<const std::int8_t*>(row.planes[kValues])[n];
        const int two = static_cast<const std::uint8_t*>(row.planes[kValues])[n / 2];
        return (two >> (4 * (n % 2)) & 15) - kCodeOffset;
    }
    THIMBLE_HOST_DEVICE static float scale_at(const PackedRow& row, std::int64_t g) {
        return f16_to_f32(static_cast<const std::uint16_t*>(row.planes[kScales])[g]);
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        std::int64_t n = kept_before(row, first);
        const bool codes = has_codes(row.params);
        for (std::int64_t k = 0; k < count; k += kElements) {
            const std::uint32_t mask = mask_word(row, (first + k) / 32);
            const Real scale =
                codes ? static_cast<Real>(scale_at(row, (first + k) / row.params.group)) : Real{1};
            for (int i = 0; i < kElements; ++i) {
                out[k + i] = 0;
                if ((mask >> i & 1u) == 0) continue;
                out[k + i] = codes ? scale * static_cast<Real>(code_at(row, n))
                                   : static_cast<Real>(value_at(row, n));
                ++n;
            }
        }
    }
};

}  // namespace thimble
