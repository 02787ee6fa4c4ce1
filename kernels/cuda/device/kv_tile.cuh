// SPDX-License-Identifier: Apache-2.0
// Attention's view of the KV memory: which slots a query sees, and 32 slots of keys or values as
// floats in shared memory.
#pragma once

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/layout/half.h"
#include "kernels/layout/q8_0.h"

namespace thimble::cuda {

inline constexpr int kTileSlots = 32;
inline constexpr int kTilePad = 4;  // floats behind each slot, so that 8 lanes meet 32 banks

// -1: nothing is there.
__device__ __forceinline__ std::int64_t key_position(const AttentionSplit& p, std::int64_t slot) {
    if (slot >= p.slots) return -1;
    return p.positions != nullptr ? p.positions[slot] : p.first_position + slot;
}
__device__ __forceinline__ bool visible(const AttentionSplit& p, std::int64_t query,
                                        std::int64_t key) {
    return key >= 0 && key <= query && (p.window == 0 || query - key < p.window || key < p.sinks);
}

// Whether decode_eight can read these rows: f32, f16 and bf16 as 128-bit vectors; blocks of q8_0
// are 34 bytes and stand at even addresses.
inline bool supports_rows(const KvRows& rows, int head_dim) noexcept {
    const bool q8 = rows.layout == LayoutId::k_q8_0;
    const std::size_t unit = q8 ? 2 : 16;
    if (q8 && head_dim % 32 != 0) return false;
    return (q8 || rows.layout == LayoutId::k_f32 || rows.layout == LayoutId::k_f16 ||
            rows.layout == LayoutId::k_bf16) &&
           reinterpret_cast<std::uintptr_t>(rows.data) % unit == 0 &&
           rows.token_bytes % unit == 0 && rows.head_bytes % unit == 0;
}

__device__ __forceinline__ float low_half(LayoutId layout, unsigned word) {
    return layout == LayoutId::k_f16 ? f16_to_f32(static_cast<std::uint16_t>(word))
                                     : bits_to_float(word << 16);
}
__device__ __forceinline__ float high_half(LayoutId layout, unsigned word) {
    return layout == LayoutId::k_f16 ? f16_to_f32(static_cast<std::uint16_t>(word >> 16))
                                     : bits_to_float(word & 0xffff0000u);
}

struct Eight {
    float4 low, high;
};
// Columns [8 i, 8 i + 8) of a row.
__device__ __forceinline__ Eight decode_eight(LayoutId layout, const std::byte* row, int i) {
    if (layout == LayoutId::k_f32)
        return {load_vector<float4>(row + 32 * i), load_vector<float4>(row + 32 * i + 16)};
    if (layout == LayoutId::k_q8_0) {
        const auto* block = reinterpret_cast<const std::uint16_t*>(row) + i / 4 * 17;
        const float d = f16_to_f32(__ldg(block));
        float v[8];
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            const unsigned both = __ldg(block + 1 + i % 4 * 4 + pair);
            v[2 * pair] = d * static_cast<float>(static_cast<std::int8_t>(both));
            v[2 * pair + 1] = d * static_cast<float>(static_cast<std::int8_t>(both >> 8));
        }
        return {make_float4(v[0], v[1], v[2], v[3]), make_float4(v[4], v[5], v[6], v[7])};
    }
    const uint4 w = load_vector<uint4>(row + 16 * i);
    return {make_float4(low_half(layout, w.x), high_half(layout, w.x), low_half(layout, w.y),
                        high_half(layout, w.y)),
            make_float4(low_half(layout, w.z), high_half(layout, w.z), low_half(layout, w.w),
                        high_half(layout, w.w))};
}

// Slots [first, first + 32) of one head to `tile`, rows of head_dim + kTilePad floats; zeros where
// nothing is. By all threads of the block.
template <class Tile>
__device__ __forceinline__ void load_tile(const AttentionSplit& p, const KvRows& rows, int head,
                                          std::int64_t first, Tile&& tile) {
    const int across = p.head_dim / 8;
    for (int at = threadIdx.x; at < kTileSlots * across; at += blockDim.x) {
        const int slot = at / across, i = at % across;
        Eight v = {make_float4(0, 0, 0, 0), make_float4(0, 0, 0, 0)};
        if (key_position(p, first + slot) >= 0) {
            v = decode_eight(rows.layout,
                             rows.data + static_cast<std::size_t>(first + slot) * rows.token_bytes +
                                 static_cast<std::size_t>(head) * rows.head_bytes,
                             i);
        }
        const int to = slot * (p.head_dim + kTilePad) + 8 * i;
        shared_store(tile, to, v.low);
        shared_store(tile, to + 4, v.high);
    }
}

}  // namespace thimble::cuda
