// SPDX-License-Identifier: Apache-2.0
// iq2_xxs: the encoder is kernels/encode/iq2_xxs.h.
#include "kernels/encode/iq2_xxs.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq2_xxs;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq2_xxs",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 2.0625,
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq2_xxs() {
    return std::make_unique<BlockFormat<Codec>>();
}

}  // namespace thimble
