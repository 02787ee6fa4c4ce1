// SPDX-License-Identifier: Apache-2.0
// q6_k: one searched scale per 16 weights, quantised to signed 8 bits per 256; codes -32..31.
#include "format/block_format.h"
#include "format/lanes.h"
#include "format/search.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q6_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q6_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 6.5625,
                // sqrt(16) half steps of 1/31, and the rounding of the 8-bit scales.
                .error_bound = 0.075};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b) {
            encode_block(weights + 256 * b, importance ? importance + 256 * b : nullptr, out[b]);
        }
    }

    static void encode_block(const float* weights, const float* importance, Block& out) {
        float w[256], scales[16], codes[256];
        importance_or_ones(importance, w, 256);
        float peak = 0;  // the scale of the largest magnitude, with its sign
        for (int g = 0; g < 16; ++g) {
            scales[g] = search_scale(weights + 16 * g, w + 16 * g, 16, {32, 31});
            if (std::abs(scales[g]) > std::abs(peak)) peak = scales[g];
        }
        out.d = f32_to_f16(peak / -128.0f);  // the peak's group gets scale -128
        const float d = f16_to_f32(out.d);
        for (int g = 0; g < 16; ++g)
            out.scales[g] =
                choose_scale(weights + 16 * g, w + 16 * g, scales[g], d, codes + 16 * g);
        pack(codes, out);
    }

    // The best of the three 8-bit scales nearest to the searched one; fills the group's codes.
    static std::int8_t choose_scale(const float* weights, const float* importance, float scale,
                                    float d, float* codes) {
        if (d == 0) {
            std::fill(codes, codes + 16, 0.0f);
            return 0;
        }
        const int middle = static_cast<int>(round_even(scale / d));
        int best = 0;
        float least_error = 0, trial[16];
        for (int s = std::max(middle - 1, -128); s <= std::min(middle + 1, 127); ++s) {
            const float error =
                assign_codes(weights, importance, 16, d * static_cast<float>(s), 0, -32, 31, trial);
            if (s != std::max(middle - 1, -128) && !(error < least_error)) continue;
            best = s;
            least_error = error;
            std::copy(trial, trial + 16, codes);
        }
        return static_cast<std::int8_t>(best);
    }

    static void pack(const float* codes, Block& out) {
        std::uint8_t u[256];
        for (int i = 0; i < 256; ++i)
            u[i] = static_cast<std::uint8_t>(static_cast<int>(codes[i]) + 32);
        for (int h = 0; h < 2; ++h) {
            const std::uint8_t* half = u + 128 * h;
            for (int i = 0; i < 32; ++i) {
                for (int q = 0; q < 2; ++q)
                    out.low[64 * h + 32 * q + i] = static_cast<std::uint8_t>(
                        (half[32 * q + i] & 15) | (half[32 * (q + 2) + i] & 15) << 4);
                out.high[32 * h + i] =
                    static_cast<std::uint8_t>(half[i] >> 4 | (half[32 + i] >> 4) << 2 |
                                              (half[64 + i] >> 4) << 4 | (half[96 + i] >> 4) << 6);
            }
        }
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q6_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
