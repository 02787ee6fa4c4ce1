// SPDX-License-Identifier: Apache-2.0
// q5_1: searched scale and minimum per 32 weights, codes 0..31.
#include "format/block_format.h"
#include "format/pack.h"
#include "format/search.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q5_1;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q5_1",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 6,
                // As for q5_0: sqrt(32) half steps of 2/30.
                .error_bound = 0.19};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) {
            encode_block(weights + 32 * b, importance ? importance + 32 * b : nullptr, out[b]);
        }
    }

    static void encode_block(const float* weights, const float* importance, Block& out) {
        float w[32], codes[32];
        importance_or_ones(importance, w, 32);
        const ScaleMinimum fit = search_scale_minimum(weights, w, 32, 31, false);
        out.d = f32_to_f16(fit.scale);
        out.m = f32_to_f16(fit.minimum);
        assign_codes(weights, w, 32, f16_to_f32(out.d), f16_to_f32(out.m), 0, 31, codes);
        std::uint8_t bytes[32];
        to_bytes(codes, 0, bytes);
        pack_low_bits(bytes, out.low);
        pack_fifth_bits(bytes, out.high);
    }

    static bool finite(const Block& block) { return finite_half(block.d) && finite_half(block.m); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q5_1() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
