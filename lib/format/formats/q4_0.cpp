// SPDX-License-Identifier: Apache-2.0
// q4_0: the encoder is kernels/encode/q4_0.h.
#include "kernels/encode/q4_0.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q4_0;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q4_0",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 4.5,
                // A weight equal to minus the peak is clipped by one whole step.
                .error_bound = 1.0 / 8 + 0x1p-11};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q4_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
