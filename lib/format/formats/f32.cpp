// SPDX-License-Identifier: Apache-2.0
// f32: weights as they are.
#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_f32;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "f32", .layout = kLayout, .lossless = true, .nominal_bits_per_weight = 32};
    }
    static void encode(const float* weights, const float*, Block& out) { out.value = *weights; }
    static bool finite(const Block& block) {
        return (float_to_bits(block.value) & 0x7f800000u) != 0x7f800000u;
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_f32() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
