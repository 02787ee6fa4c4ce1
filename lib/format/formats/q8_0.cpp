// SPDX-License-Identifier: Apache-2.0
// q8_0: the encoder is kernels/encode/q8_0.h.
#include "kernels/encode/q8_0.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q8_0;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q8_0",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 8.5,
                // Half a step of 1/127, and the scale's own rounding.
                .error_bound = 0.5 / 127 + 0x1p-11};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q8_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
