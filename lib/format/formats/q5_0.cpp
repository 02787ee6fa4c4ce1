// SPDX-License-Identifier: Apache-2.0
// q5_0: the encoder is kernels/encode/q5_0.h.
#include "kernels/encode/q5_0.h"

#include "format/block_format.h"

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

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q5_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
