// SPDX-License-Identifier: Apache-2.0
// q4_0: the weight of the largest magnitude of each 32 maps to code 0 (that is, -8). Without
// importance byte for byte ggml's reference encoder; with importance the scale is searched.
#include "format/block_format.h"
#include "format/pack.h"
#include "format/search.h"

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

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) {
            if (importance) {
                encode_searched(weights + 32 * b, importance + 32 * b, out[b]);
            } else {
                encode_plain(weights + 32 * b, out[b]);
            }
        }
    }

    static void encode_plain(const float* weights, Block& out) {
        std::uint32_t peak_bits = 0;
        for (int i = 0; i < 32; ++i)
            peak_bits = std::max(peak_bits, float_to_bits(weights[i]) & 0x7fffffffu);
        int at = 0;  // of two weights with the peak's magnitude the first one gives the sign
        while ((float_to_bits(weights[at]) & 0x7fffffffu) != peak_bits) ++at;
        const float peak = peak_bits == 0 ? 0.0f : weights[at];
        const float d = peak / -8.0f;
        out.d = f32_to_f16(d);
        const float magnitude = bits_to_float(peak_bits) / 8.0f;
        const float inverse = magnitude > 0x1p-126f ? 1.0f / d : 0.0f;
        std::uint8_t codes[32];
        for (int i = 0; i < 32; ++i) {
            const auto code = static_cast<std::int32_t>(weights[i] * inverse + 8.5f);
            codes[i] = static_cast<std::uint8_t>(std::min(code, 15));
        }
        pack_low_bits(codes, out.codes);
    }

    static void encode_searched(const float* weights, const float* importance, Block& out) {
        float w[32], codes[32];
        importance_or_ones(importance, w, 32);
        out.d = f32_to_f16(search_scale(weights, w, 32, {8, 7}));
        assign_codes(weights, w, 32, f16_to_f32(out.d), 0, -8, 7, codes);
        std::uint8_t bytes[32];
        to_bytes(codes, 8, bytes);
        pack_low_bits(bytes, out.codes);
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q4_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
