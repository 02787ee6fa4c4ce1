// SPDX-License-Identifier: Apache-2.0
// iq4_nl: the encoder is kernels/encode/iq4_nl.h.
#include "kernels/encode/iq4_nl.h"

#include "format/block_format.h"

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

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq4_nl() {
    return std::make_unique<BlockFormat<Codec>>();
}

}  // namespace thimble
