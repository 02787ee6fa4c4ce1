// SPDX-License-Identifier: Apache-2.0
// q3_k: searched scale per 16 weights, quantised to signed 6 bits per 256; codes -4..3.
#include "format/block_format.h"
#include "format/k_scaled.h"

namespace thimble {
namespace {

struct Grid {
    static constexpr int kGroup = 16;
    static float search(const float* weights, const float* importance) {
        return search_scale(weights, importance, kGroup, {4, 3});
    }
    static float assign(const float* weights, const float* importance, float scale, float* values) {
        return assign_codes(weights, importance, kGroup, scale, 0, -4, 3, values);
    }
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q3_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {
            .name = "q3_k",
            .layout = kLayout,
            .block_elements = 256,
            .nominal_bits_per_weight = 3.4375,
            // sqrt(16) steps of 1/4: a weight equal to minus the peak is clipped by a whole one.
            .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) {
            KScaled<Grid> plain;
            plain.encode(weights + 256 * b, importance ? importance + 256 * b : nullptr);
            pack(plain, out[b]);
        }
    }

    static void pack(const KScaled<Grid>& plain, Block& out) {
        out = {};
        out.d = plain.d;
        for (int g = 0; g < 16; ++g) Layout<kLayout>::set_scale(out, g, plain.scale[g]);
        for (int i = 0; i < 256; ++i) {
            const int code = static_cast<int>(plain.values[i]) + 4, line = i / 32;
            std::uint8_t& low = out.low[32 * (line / 4) + i % 32];
            low = static_cast<std::uint8_t>(low | (code & 3) << (2 * (line % 4)));
            std::uint8_t& high = out.high[i % 32];
            high = static_cast<std::uint8_t>(high | (code >> 2) << line);
        }
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q3_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
