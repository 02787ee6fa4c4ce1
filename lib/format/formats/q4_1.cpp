// SPDX-License-Identifier: Apache-2.0
// q4_1: the least of each 32 weights maps to code 0, the greatest to 15. Without importance byte
// for byte ggml's reference encoder; with importance scale and minimum are searched.
#include "format/block_format.h"
#include "format/lanes.h"
#include "format/pack.h"
#include "format/search.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q4_1;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q4_1",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 5,
                // Half a step of 2/15, and the rounding of scale and minimum.
                .error_bound = 1.0 / 15 + 3 * 0x1p-11};
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
        Lanes low = load_lanes(weights), high = low;
        for (int i = 4; i < 32; i += 4) {
            low = lane_min(low, load_lanes(weights + i));
            high = lane_max(high, load_lanes(weights + i));
        }
        // The first of equal values stands for all: zeros may differ in sign.
        const float least =
            first_equal(weights, std::min(std::min(low[0], low[1]), std::min(low[2], low[3])));
        const float most =
            first_equal(weights, std::max(std::max(high[0], high[1]), std::max(high[2], high[3])));
        const float d = (most - least) / 15.0f;
        out.d = f32_to_f16(d);
        out.m = f32_to_f16(least);
        const float inverse = d > 0x1p-126f ? 1.0f / d : 0.0f;
        std::uint8_t codes[32];
        for (int i = 0; i < 32; ++i) {
            const auto code = static_cast<std::int32_t>((weights[i] - least) * inverse + 0.5f);
            codes[i] = static_cast<std::uint8_t>(std::min(code, 15));
        }
        pack_low_bits(codes, out.codes);
    }

    static float first_equal(const float* weights, float value) {
        int at = 0;
        while (weights[at] != value) ++at;
        return weights[at];
    }

    static void encode_searched(const float* weights, const float* importance, Block& out) {
        float w[32], codes[32];
        importance_or_ones(importance, w, 32);
        const ScaleMinimum fit = search_scale_minimum(weights, w, 32, 15, false);
        out.d = f32_to_f16(fit.scale);
        out.m = f32_to_f16(fit.minimum);
        assign_codes(weights, w, 32, f16_to_f32(out.d), f16_to_f32(out.m), 0, 15, codes);
        std::uint8_t bytes[32];
        to_bytes(codes, 0, bytes);
        pack_low_bits(bytes, out.codes);
    }

    static bool finite(const Block& block) { return finite_half(block.d) && finite_half(block.m); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q4_1() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
