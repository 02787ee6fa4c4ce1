// SPDX-License-Identifier: Apache-2.0
// q5_k: the encoder is kernels/encode/q5_k.h.
#include "kernels/encode/q5_k.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q5_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q5_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 5.5,
                // sqrt(32) half steps of 2/31 (see q5_0), and the rounding of 6-bit scales.
                .error_bound = 0.23};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) {
        return finite_half(block.d) && finite_half(block.dmin);
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q5_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
