// SPDX-License-Identifier: Apache-2.0
// tq2_0: ternary weights of one scale per 256, two bits each.
// differs: ggml's encoder takes the largest magnitude for the scale, which suits weights that are
// ternary already; this one finds the best scale, which for those is the same.
#include "format/block_format.h"
#include "format/ternary.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_tq2_0;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "tq2_0",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 2.0625,
                // The scale is at most the peak, and a weight's code the nearest.
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        TernaryBlock plain;
        encode_ternary(weights, importance, plain);
        out = {};
        out.d = plain.d;
        for (int i = 0; i < 256; ++i) {
            std::uint8_t& codes = out.codes[i / 128 * 32 + i % 32];
            codes = static_cast<std::uint8_t>(codes | plain.digits[i] << (i / 32 % 4 * 2));
        }
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_tq2_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
