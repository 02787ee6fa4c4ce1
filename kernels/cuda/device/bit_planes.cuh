// SPDX-License-Identifier: Apache-2.0
// What the products of bit planes share: a word of 32 columns of one row.
#pragma once

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/matvec.cuh"
#include "kernels/layout/bipolar.h"

namespace thimble::cuda {

inline constexpr int kMostPlanes = 8;

using Bipolar = Layout<LayoutId::k_bipolar>;

// The words of row r: `bits` for each 32 columns.
__device__ __forceinline__ const std::uint32_t* plane_row(const Matrix& m, std::int64_t r) {
    return reinterpret_cast<const std::uint32_t*>(m.planes[Bipolar::kPlanesOfBits] +
                                                  r * m.row_bytes[Bipolar::kPlanesOfBits]);
}
// The scale of the group of row r that the tile of 32 columns is in.
__device__ __forceinline__ float plane_scale(const Matrix& m, std::int64_t r, std::int64_t tile) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(m.planes[Bipolar::kScales] +
                                                                r * m.row_bytes[Bipolar::kScales]);
    const auto tiles_of_group = static_cast<unsigned>(m.params.group) / 32;
    return f16_to_f32(__ldg(scales + static_cast<unsigned>(tile) / tiles_of_group));
}
// With every bit +1 or -1: the largest that so many columns' product can be.
__device__ __forceinline__ int most_of(const MatmulPlanes& p, int columns) {
    return columns * ((1 << p.weight.params.bits) - 1) * ((1 << p.x_bits) - 1);
}

[[nodiscard]] inline bool are_planes(const MatmulPlanes& p) noexcept {
    const Matrix& w = p.weight;
    return w.layout == LayoutId::k_bipolar && w.cols > 0 && w.cols % 32 == 0 &&
           w.params.group > 0 && w.params.group % 32 == 0 && w.params.bits >= 1 &&
           w.params.bits <= kMostPlanes && p.x_bits >= 1 && p.x_bits <= kMostPlanes &&
           is_aligned(w.planes[Bipolar::kPlanesOfBits], 4) && is_aligned(p.x, 16);
}

}  // namespace thimble::cuda
