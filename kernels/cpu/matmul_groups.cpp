// SPDX-License-Identifier: Apache-2.0
// Matmul of interleaved layouts, by shards, and its 8-bit input.
#include "kernels/cpu/groups.h"
#include "kernels/cpu/kernels.h"

namespace thimble::cpu::THIMBLE_ISA {

void matmul_groups(const MatmulGroups& p) {
    static constexpr void (*kRun[kShards])(const MatmulGroups&) = {
        matmul_groups_0, matmul_groups_1, matmul_groups_2, matmul_groups_3};
    switch (p.layout) {
        case LayoutId::k_sparse_x16:
        case LayoutId::k_sparse8_x16:
        case LayoutId::k_sparse4_x16:
            return matmul_sparse(p);
        default:
            kRun[shard_of(p.layout)](p);
    }
}

namespace {

// The largest |x|, NaN where there is one: without their signs, floats are ordered as their bits
// are, NaN highest.
THIMBLE_INLINE float largest_magnitude(const float* x, std::int64_t n) {
    vi largest = {};
    for (std::int64_t i = 0; i < n; i += kLanes) {
        const vi bits = reinterpret_cast<vi>(load(x + i)) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    std::int32_t top = 0;
    for (int i = 0; i < kLanes; ++i) top = largest[i] > top ? largest[i] : top;
    float magnitude;
    __builtin_memcpy(&magnitude, &top, sizeof magnitude);
    return magnitude;
}

// Codes as bytes; what they hold together.
THIMBLE_INLINE std::int32_t narrow_codes(vi codes, std::int8_t* out) {
    typedef std::int8_t narrow __attribute__((vector_size(kLanes)));
    const narrow bytes = __builtin_convertvector(codes, narrow);
    __builtin_memcpy(out, &bytes, sizeof bytes);
#if defined(THIMBLE_ISA_avx512)
    // Of bytes, not of codes: those of a NaN are anything.
    return _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(bytes)));
#else
    std::int32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += bytes[i];
    return sum;
#endif
}

// A NaN or infinity makes the block's scale NaN, so that it shows in every output.
THIMBLE_INLINE void quantise_block(const float* x, float magnitude, I8Block& block) {
    const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    block.scale = (magnitude - magnitude) + magnitude / 127.0f;
    // Below, the reciprocal would overflow: such a block is zero.
    const vf inverse = broadcast(magnitude > 1e-30f ? 127.0f / magnitude : 0.0f);
    for (int h = 0; h < 2; ++h) {
        std::int32_t sum = 0;
        for (int i = 16 * h; i < 16 * h + 16; i += kLanes) {
            const vi codes = reinterpret_cast<vi>(load(x + i) * inverse + magic) - 0x4b400000;
            sum += narrow_codes(codes, block.codes + i);
        }
        block.negative_halves[h] = -sum;
        block.half_sums[h] = block.scale * static_cast<float>(sum);
    }
    block.negative_sum = block.negative_halves[0] + block.negative_halves[1];
    block.sum = block.scale * static_cast<float>(-block.negative_sum);
}

}  // namespace

void quantise_i8(const float* x, std::int64_t cols, I8Block* out) {
    for (std::int64_t b = 0; b < cols / 32; ++b)
        quantise_block(x + 32 * b, largest_magnitude(x + 32 * b, 32), out[b]);
}

// One scale for all columns, of a magnitude of at least 1e-5.
void quantise_i8_token(const float* x, std::int64_t cols, I8Block* out) {
    const float largest = largest_magnitude(x, cols);
    const float magnitude = largest < 1e-5f ? 1e-5f : largest;
    for (std::int64_t b = 0; b < cols / 32; ++b) quantise_block(x + 32 * b, magnitude, out[b]);
}

}  // namespace thimble::cpu::THIMBLE_ISA
