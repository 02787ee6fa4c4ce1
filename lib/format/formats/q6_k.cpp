// SPDX-License-Identifier: Apache-2.0
// q6_k: the encoder is kernels/encode/q6_k.h.
#include "kernels/encode/q6_k.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q6_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q6_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 6.5625,
                // sqrt(16) half steps of 1/31, and the rounding of the 8-bit scales.
                .error_bound = 0.075};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q6_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
