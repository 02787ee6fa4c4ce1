// SPDX-License-Identifier: Apache-2.0
// q3_k: the encoder is kernels/encode/q3_k.h.
#include "kernels/encode/q3_k.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q3_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {
            .name = "q3_k",
            .layout = kLayout,
            .block_elements = 256,
            .nominal_bits_per_weight = 3.4375,
            // sqrt(16) steps of 1/4: a weight equal to minus the peak is clipped by a whole one.
            .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q3_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
