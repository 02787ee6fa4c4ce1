// SPDX-License-Identifier: Apache-2.0
// bf16: weights rounded to the upper half of a float, ties to even.
#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_bf16;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "bf16",
                .layout = kLayout,
                .nominal_bits_per_weight = 16,
                .error_bound = 0x1p-8};
    }
    static void encode(const float* weights, const float*, Block& out) {
        out.bits = f32_to_bf16(*weights);
    }
    static bool finite(const Block& block) { return (block.bits & 0x7f80u) != 0x7f80u; }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_bf16() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
