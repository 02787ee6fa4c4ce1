// SPDX-License-Identifier: Apache-2.0
// Matmul of interleaved layouts, by shards, and its 8-bit input.
#include "kernels/cpu/groups.h"

namespace thimble::cpu::THIMBLE_ISA {

extern template void run_shard<0>(const MatmulGroups&);
extern template void run_shard<1>(const MatmulGroups&);
extern template void run_shard<2>(const MatmulGroups&);
extern template void run_shard<3>(const MatmulGroups&);

void matmul_groups(const MatmulGroups& p) {
    static constexpr void (*kRun[kShards])(const MatmulGroups&) = {run_shard<0>, run_shard<1>,
                                                                   run_shard<2>, run_shard<3>};
    kRun[shard_of(p.layout)](p);
}

// A NaN or infinity makes the block's scale NaN, so that it shows in every output.
void quantise_i8(const float* x, std::int64_t cols, I8Block* out) {
    const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    for (std::int64_t b = 0; b < cols / 32; ++b, x += 32) {
        // Without their signs, floats are ordered as their bits are, NaN highest.
        vi largest = {};
        for (int i = 0; i < 32; i += kLanes) {
            const vi bits = reinterpret_cast<vi>(load(x + i)) & 0x7fffffff;
            largest = bits > largest ? bits : largest;
        }
        std::int32_t top = 0;
        for (int i = 0; i < kLanes; ++i) top = largest[i] > top ? largest[i] : top;
        float magnitude;
        __builtin_memcpy(&magnitude, &top, sizeof magnitude);
        I8Block& block = out[b];
        block.scale = (magnitude - magnitude) + magnitude / 127.0f;
        // Below, the reciprocal would overflow: such a block is zero.
        const vf inverse = broadcast(magnitude > 1e-30f ? 127.0f / magnitude : 0.0f);
        std::int32_t codes[32];
        for (int i = 0; i < 32; i += kLanes) {
            const vi code = reinterpret_cast<vi>(load(x + i) * inverse + magic) - 0x4b400000;
            __builtin_memcpy(codes + i, &code, sizeof code);
        }
        for (int h = 0; h < 2; ++h) {
            std::int32_t sum = 0;
            for (int i = 16 * h; i < 16 * h + 16; ++i) {
                block.codes[i] = static_cast<std::int8_t>(codes[i]);
                sum += codes[i];
            }
            block.negative_halves[h] = -sum;
            block.half_sums[h] = block.scale * static_cast<float>(sum);
        }
        block.negative_sum = block.negative_halves[0] + block.negative_halves[1];
        block.sum = block.scale * static_cast<float>(-block.negative_sum);
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
