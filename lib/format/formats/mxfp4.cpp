// SPDX-License-Identifier: Apache-2.0
// mxfp4: the encoder is kernels/encode/mxfp4.h.
#include "kernels/encode/mxfp4.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_mxfp4;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "mxfp4",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 4.25,
                // A peak clipped from 8 to 6, or half the step between 4 and 6.
                .error_bound = 0.25};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return block.d <= kE8m0Finite; }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_mxfp4() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
