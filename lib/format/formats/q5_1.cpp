// SPDX-License-Identifier: Apache-2.0
// q5_1: the encoder is kernels/encode/q5_1.h.
#include "kernels/encode/q5_1.h"

#include "format/block_format.h"

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

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d) && finite_half(block.m); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q5_1() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
