// SPDX-License-Identifier: Apache-2.0
// iq4_xs: searched scale per 32 weights, quantised to signed 6 bits per 256; codes through a table.
#include "format/block_format.h"
#include "format/iq4_search.h"
#include "format/k_scaled.h"

namespace thimble {
namespace {

struct Grid {
    static constexpr int kGroup = 32;
    static float search(const float* weights, const float* importance) {
        return search_iq4_scale(weights, importance);
    }
    static float assign(const float* weights, const float* importance, float scale, float* values) {
        return assign_iq4(weights, importance, scale, values);
    }
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_iq4_xs;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "iq4_xs",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 4.25,
                // As for iq4_nl, and the rounding of the 6-bit scales.
                .error_bound = 0.56};
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
        for (int g = 0; g < 8; ++g) {
            Layout<kLayout>::set_scale(out, g, plain.scale[g]);
            std::uint8_t codes[32];
            iq4_codes(plain.values + 32 * g, codes);
            for (int i = 0; i < 16; ++i)
                out.codes[16 * g + i] = static_cast<std::uint8_t>(codes[i] | codes[i + 16] << 4);
        }
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_iq4_xs() {
    return std::make_unique<BlockFormat<Codec>>();
}

}  // namespace thimble
