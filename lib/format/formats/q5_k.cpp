// SPDX-License-Identifier: Apache-2.0
// q5_k: as q4_k with 5-bit codes.
#include "format/block_format.h"
#include "format/k_affine.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q5_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q5_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 5.5,
                // sqrt(32) half steps of 2/31 (see q5_0), and the rounding of 6-bit scales.
                .error_bound = 0.23};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) {
            KAffineBlock plain;
            encode_k_affine(weights + 256 * b, importance ? importance + 256 * b : nullptr, 31,
                            plain);
            out[b].d = plain.d;
            out[b].dmin = plain.dmin;
            plain.scales.pack(out[b].scales);
            for (int p = 0; p < 4; ++p) {
                const std::uint8_t* codes = plain.codes + 64 * p;
                for (int i = 0; i < 32; ++i)
                    out[b].low[32 * p + i] =
                        static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 32] & 15) << 4);
            }
            for (int i = 0; i < 32; ++i) {
                int bits = 0;
                for (int g = 0; g < 8; ++g) bits |= (plain.codes[32 * g + i] >> 4) << g;
                out[b].high[i] = static_cast<std::uint8_t>(bits);
            }
        }
    }

    static bool finite(const Block& block) {
        return finite_half(block.d) && finite_half(block.dmin);
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q5_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
