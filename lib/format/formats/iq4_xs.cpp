// SPDX-License-Identifier: Apache-2.0
// iq4_xs: the encoder is kernels/encode/iq4_xs.h.
#include "kernels/encode/iq4_xs.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq4_xs;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq4_xs",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 4.25,
                // As for iq4_nl, and the rounding of the 6-bit scales.
                .error_bound = 0.56};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq4_xs() {
    return std::make_unique<BlockFormat<Codec>>();
}

}  // namespace thimble
