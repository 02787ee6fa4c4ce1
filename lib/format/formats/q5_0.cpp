// SPDX-License-Identifier: Apache-2.0
// q5_0: one searched scale per 32 weights, codes -16..15.
#include "format/block_format.h"
#include "format/pack.h"
#include "format/search.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q5_0;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q5_0",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 5.5,
                // The searched scale leaves at most the squared error of plain rounding, all of
                // which may fall on one weight: sqrt(32) half steps of 1/15.
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
        out.d = f32_to_f16(search_scale(weights, w, 32, {16, 15}));
        assign_codes(weights, w, 32, f16_to_f32(out.d), 0, -16, 15, codes);
        std::uint8_t bytes[32];
        to_bytes(codes, 16, bytes);
        pack_low_bits(bytes, out.low);
        pack_fifth_bits(bytes, out.high);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q5_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
