// SPDX-License-Identifier: Apache-2.0
// iq3_xxs: the encoder is kernels/encode/iq3_xxs.h.
#include "kernels/encode/iq3_xxs.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq3_xxs;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq3_xxs",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 3.0625,
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq3_xxs() {
    return std::make_unique<BlockFormat<Codec>>();
}

}  // namespace thimble
