// SPDX-License-Identifier: Apache-2.0
// Rows of any stored layout to floats, and rows of K and V to what the cache stores.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/layout/all.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

template <LayoutId id>
THIMBLE_INLINE void decode_blocks(const void* __restrict row, std::int64_t cols,
                                  float* __restrict out) {
    using L = Layout<id>;
    // GCC makes vectors of these only from a copy, whose bytes cannot be among those of `out`: five
    // times as fast. The others gain nothing or lose.
    constexpr bool kCopied = id == LayoutId::k_q4_0 || id == LayoutId::k_q4_1;
    const auto* blocks = static_cast<const typename L::Block*>(row);
    for (std::int64_t b = 0; b * L::kElements < cols; ++b) {
        if constexpr (kCopied) {
            const typename L::Block block = blocks[b];
            L::unpack(block, out + b * L::kElements);
        } else {
            L::unpack(blocks[b], out + b * L::kElements);
        }
    }
}

// Blocks of 32: d = max|x| / 127, stored as f16; codes to nearest, ties to even.
THIMBLE_INLINE void encode_q8_0(const float* x, std::int64_t n, void* out) {
    auto* blocks = static_cast<Layout<LayoutId::k_q8_0>::Block*>(out);
    for (std::int64_t b = 0; b < n / 32; ++b, x += 32) {
        float largest = 0;
        for (int i = 0; i < 32; ++i) {
            const float magnitude = __builtin_fabsf(x[i]);
            largest = magnitude > largest ? magnitude : largest;
        }
        const float d = largest / 127.0f;
        const float inverse = d != 0 ? 1.0f / d : 0.0f;
        blocks[b].d = f32_to_f16(d);
        for (int i = 0; i < 32; ++i)
            blocks[b].codes[i] = static_cast<std::int8_t>(__builtin_rintf(x[i] * inverse));
    }
}

}  // namespace

void decode_row(LayoutId layout, const void* row, std::int64_t cols, float* out) {
    std::int64_t i = 0;
    switch (layout) {
        case LayoutId::k_f16: {
            const auto* p = static_cast<const std::uint16_t*>(row);
            for (; i + kLanes <= cols; i += kLanes) store(out + i, load_f16(p + i));
            for (; i < cols; ++i) out[i] = f16_to_f32(p[i]);
            return;
        }
        case LayoutId::k_bf16: {
            const auto* p = static_cast<const std::uint16_t*>(row);
            for (; i + kLanes <= cols; i += kLanes) store(out + i, load_bf16(p + i));
            for (; i < cols; ++i) out[i] = bf16_to_f32(p[i]);
            return;
        }
        default:
            break;
    }
    switch (layout) {
#define THIMBLE_LAYOUT(id) \
    case LayoutId::k_##id: \
        return decode_blocks<LayoutId::k_##id>(row, cols, out);
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
        default:
            break;  // not a row layout
    }
}

// Columns [first, first + count) of a row in any stored layout, planes included; both multiples of
// its kElements.
void decode_columns(LayoutId layout, const PackedRow& row, std::int64_t first, std::int64_t count,
                    float* out) {
    std::int64_t elements = 1;
    std::size_t bytes = 0;
    switch (layout) {
#define THIMBLE_LAYOUT(id)                               \
    case LayoutId::k_##id:                               \
        elements = Layout<LayoutId::k_##id>::kElements;  \
        bytes = sizeof(Layout<LayoutId::k_##id>::Block); \
        break;
#define THIMBLE_PLANES(id) \
    case LayoutId::k_##id: \
        return Layout<LayoutId::k_##id>::unpack(row, first, count, out);
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
        default:
            return;  // not a row layout
    }
    decode_row(layout,
               static_cast<const std::byte*>(row.planes[0]) +
                   static_cast<std::size_t>(first / elements) * bytes,
               count, out);
}

void encode_kv_row(LayoutId layout, const float* x, std::int64_t n, void* out) {
    std::int64_t i = 0;
    auto* half = static_cast<std::uint16_t*>(out);
    switch (layout) {
        case LayoutId::k_f16:
            for (; i + kLanes <= n; i += kLanes) store_f16(half + i, load(x + i));
            for (; i < n; ++i) half[i] = f32_to_f16(x[i]);
            return;
        case LayoutId::k_bf16:
            for (; i < n; ++i) half[i] = f32_to_bf16(x[i]);
            return;
        case LayoutId::k_q8_0:
            return encode_q8_0(x, n, out);
        default:
            __builtin_memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float));
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
