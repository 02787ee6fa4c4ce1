// SPDX-License-Identifier: Apache-2.0
// iq2_s: the encoder is kernels/encode/iq2_s.h.
#include "kernels/encode/iq2_s.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq2_s;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq2_s",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 2.5625,
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq2_s() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
