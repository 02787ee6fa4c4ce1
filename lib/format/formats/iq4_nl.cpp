// SPDX-License-Identifier: Apache-2.0
// iq4_nl: one searched scale per 32 weights, of either sign, codes through a table.
#include "format/block_format.h"
#include "format/iq4_search.h"
#include "format/pack.h"
#include "format/search.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq4_nl;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq4_nl",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 4.5,
                // sqrt(32) half steps of 23/127 (see q5_0).
                .error_bound = 0.52};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b)
            encode_block(weights + 32 * b, importance ? importance + 32 * b : nullptr, out[b]);
    }

    static void encode_block(const float* weights, const float* importance, Block& out) {
        float w[32], values[32];
        importance_or_ones(importance, w, 32);
        out.d = f32_to_f16(search_iq4_scale(weights, w));
        assign_iq4(weights, w, f16_to_f32(out.d), values);
        std::uint8_t codes[32];
        iq4_codes(values, codes);
        pack_low_bits(codes, out.codes);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq4_nl() {
    return std::make_unique<BlockFormat<Codec>>();
}

}  // namespace thimble
