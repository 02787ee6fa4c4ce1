// SPDX-License-Identifier: Apache-2.0
// q4_k: searched scale and minimum per 32 weights, quantised to 6 bits per 256.
#include "format/block_format.h"
#include "format/k_affine.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q4_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q4_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 4.5,
                // sqrt(32) half steps of 2/15 (see q5_0), and the rounding of 6-bit scales.
                .error_bound = 0.45};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) {
            KAffineBlock plain;
            encode_k_affine(weights + 256 * b, importance ? importance + 256 * b : nullptr, 15,
                            plain);
            out[b].d = plain.d;
            out[b].dmin = plain.dmin;
            plain.scales.pack(out[b].scales);
            for (int p = 0; p < 4; ++p) {
                const std::uint8_t* codes = plain.codes + 64 * p;
                for (int i = 0; i < 32; ++i)
                    out[b].codes[32 * p + i] =
                        static_cast<std::uint8_t>(codes[i] | codes[i + 32] << 4);
            }
        }
    }

    static bool finite(const Block& block) {
        return finite_half(block.d) && finite_half(block.dmin);
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q4_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
