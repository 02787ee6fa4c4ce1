// SPDX-License-Identifier: Apache-2.0
// q4_1: the encoder is kernels/encode/q4_1.h.
#include "kernels/encode/q4_1.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q4_1;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q4_1",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 5,
                // Half a step of 2/15, and the rounding of scale and minimum.
                .error_bound = 1.0 / 15 + 3 * 0x1p-11};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d) && finite_half(block.m); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q4_1() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
