// SPDX-License-Identifier: Apache-2.0
// Any stored layout on the device: kernels are templates over LayoutId, chosen on the host, and a
// thread decodes 32 columns of a row into its registers.
#pragma once

#include <type_traits>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/layout/all.h"
#include "kernels/layout/parts.h"

namespace thimble::cuda {

inline constexpr int kPart = kPartElements;

// Whether `id` is a layout that decode_part takes: those that files hold.
[[nodiscard]] constexpr bool is_stored(LayoutId id) noexcept {
    switch (id) {
#define THIMBLE_LAYOUT(id) case LayoutId::k_##id:
#define THIMBLE_PLANES(id) case LayoutId::k_##id:
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
        return true;
        default:
            return false;
    }
}

template <LayoutId id>
using LayoutConstant = std::integral_constant<LayoutId, id>;

// Calls fn(LayoutConstant<id>{}) on the host; `id` is a stored layout.
template <class Fn>
void with_stored(LayoutId id, Fn&& fn) {
    switch (id) {
#define THIMBLE_LAYOUT(id) \
    case LayoutId::k_##id: \
        return fn(LayoutConstant<LayoutId::k_##id>{});
#define THIMBLE_PLANES(id) THIMBLE_LAYOUT(id)
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
        default:
            break;
    }
}

// Where row r of each plane begins.
__device__ __forceinline__ PackedRow packed_row(const Matrix& m, std::int64_t r) {
    PackedRow row{};
    row.params = m.params;
    for (int i = 0; i < kMaxPlanes; ++i)  // null stays null: there row_bytes is 0
        row.planes[i] = m.planes[i] + static_cast<std::size_t>(r) * m.row_bytes[i];
    return row;
}

// How many columns of the part from `first` on a row has.
__device__ __forceinline__ int part_columns(std::int64_t first, std::int64_t cols) {
    return cols - first < kPart ? static_cast<int>(cols - first) : kPart;
}

// Columns [first, first + 32) of a row of `cols` columns; first is a multiple of 32, what lies past
// the row is 0 (only rows of plain floats end within a part).
template <LayoutId id>
__device__ __forceinline__ void decode_part(const PackedRow& row, std::int64_t first,
                                            std::int64_t cols, float (&out)[kPart]) {
    using L = Layout<id>;
    if constexpr (requires { L::kPlanes; }) {
        L::unpack(row, first, kPart, out);
    } else {
        const auto* blocks = static_cast<const typename L::Block*>(row.planes[0]);
        if constexpr (L::kElements == 1) {
            const int count = part_columns(first, cols);
#pragma unroll
            for (int i = 0; i < kPart; ++i) {
                out[i] = 0;
                if (i < count) L::unpack(blocks[first + i], out + i);
            }
        } else if constexpr (L::kElements == kPart) {
            L::unpack(blocks[first / kPart], out);
        } else {
            constexpr int kParts = L::kElements / kPart;
            const std::int64_t part = first / kPart;
            L::unpack_part(blocks[part / kParts], static_cast<int>(part % kParts), out);
        }
    }
}

// The part's columns times `factor` to a row of floats, in vectors where `out` is aligned to them.
__device__ __forceinline__ void write_part(const float (&values)[kPart], float factor,
                                           std::int64_t first, std::int64_t cols, float* out) {
    const int count = part_columns(first, cols);
    out += first;
    if (count == kPart && reinterpret_cast<std::uintptr_t>(out) % sizeof(float4) == 0) {
#pragma unroll
        for (int i = 0; i < kPart; i += 4) {
            store_vector(out + i, make_float4(factor * values[i], factor * values[i + 1],
                                              factor * values[i + 2], factor * values[i + 3]));
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
        if (i < count) out[i] = factor * values[i];
    }
}

}  // namespace thimble::cuda
