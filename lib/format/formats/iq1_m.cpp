// SPDX-License-Identifier: Apache-2.0
// iq1_m: the encoder is kernels/encode/iq1_m.h.
#include "kernels/encode/iq1_m.h"

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq1_m;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq1_m",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 1.75,
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        encode::plain::encode_block(weights, importance, out);
    }

    static bool finite(const Block& block) { return finite_half(Layout<kLayout>::d(block)); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq1_m() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
