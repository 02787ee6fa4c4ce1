// SPDX-License-Identifier: Apache-2.0
// f16: weights rounded to IEEE half, ties to even. A weight past 65504 is refused, not clipped.
#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_f16;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "f16",
                .layout = kLayout,
                .nominal_bits_per_weight = 16,
                .error_bound = 0x1p-11};
    }
    static void encode(const float* weights, const float*, Block& out) {
        out.bits = f32_to_f16(*weights);
    }
    static bool finite(const Block& block) { return finite_half(block.bits); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_f16() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
