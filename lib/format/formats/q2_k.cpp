// SPDX-License-Identifier: Apache-2.0
// q2_k: the encoder is kernels/encode/q2_k.h.
#include "kernels/encode/q2_k.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q2_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q2_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 2.625,
                // sqrt(16) half steps of 2/3 (see q5_0) would be more than the weight itself.
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) {
        return finite_half(block.d) && finite_half(block.dmin);
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q2_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
