// SPDX-License-Identifier: Apache-2.0
// q8_0: the largest magnitude of each 32 weights maps to code 127. Byte for byte ggml's reference
// encoder, which rounds codes to nearest with ties away from zero.
#include <cmath>

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q8_0;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q8_0",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 8.5,
                // Half a step of 1/127, and the scale's own rounding.
                .error_bound = 0.5 / 127 + 0x1p-11};
    }

    // Nearest integer, ties away from zero, for |v| < 2^22. Adding the float just below one half
    // and truncating is exact: with one half itself, 0.49999997 would become 1.
    static std::int32_t round_away(float v) {
        return static_cast<std::int32_t>(v + std::copysign(0x1.fffffep-2f, v));
    }

    static void encode(const float* weights, const float*, Block* out, std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) encode_block(weights + 32 * b, out[b]);
    }

    static void encode_block(const float* weights, Block& out) {
        std::uint32_t peak_bits = 0;  // magnitudes order as their bit patterns do
        for (int i = 0; i < 32; ++i)
            peak_bits = std::max(peak_bits, float_to_bits(weights[i]) & 0x7fffffffu);
        const float d = bits_to_float(peak_bits) / 127.0f;
        out.d = f32_to_f16(d);
        // A scale too small to have a reciprocal is zero in half precision, whatever the codes.
        const float inverse = d > 0x1p-126f ? 1.0f / d : 0.0f;
        for (int i = 0; i < 32; ++i)
            out.codes[i] = static_cast<std::int8_t>(round_away(weights[i] * inverse));
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q8_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
