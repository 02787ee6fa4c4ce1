// SPDX-License-Identifier: Apache-2.0
// mxfp4: the power of two and the nearest E2M1 codes that leave the least (weighted) squared error
// ("OCP Microscaling Formats (MX) Specification" 1.0, 2023).
// differs: the specification's conversion takes the peak's own exponent, which clips peaks above
// 3/4 of the next power of two; here the exponent above is tried too, and with importance those
// below. Neither scale nor codes of a block that lies on the grid change.
#include <cmath>

#include "format/block_format.h"
#include "format/lanes.h"
#include "format/pack.h"
#include "format/search.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_mxfp4;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "mxfp4",
                .layout = kLayout,
                .block_elements = 32,
                .nominal_bits_per_weight = 4.25,
                // A peak clipped from 8 to 6, or half the step between 4 and 6.
                .error_bound = 0.25};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b)
            encode_block(weights + 32 * b, importance ? importance + 32 * b : nullptr, out[b]);
    }

    static void encode_block(const float* weights, const float* importance, Block& out) {
        float w[32], magnitudes[32], trial[32];
        importance_or_ones(importance, w, 32);
        std::uint32_t peak_bits = 0;
        for (int i = 0; i < 32; ++i)
            peak_bits = std::max(peak_bits, float_to_bits(weights[i]) & 0x7fffffffu);
        // Puts the peak between 4 and 8 units, where that many exist.
        const int own = static_cast<int>(peak_bits >> 23) - 2;
        double least = 0;
        bool have = false;
        for (int d = own + 1; d >= own - (importance ? 2 : 0); --d) {
            if (d > kE8m0Finite) continue;
            const int exponent = std::max(d, 0);
            const double unit = std::ldexp(1.0, exponent - 127);
            const double error =
                static_cast<double>(round_to_grid(weights, w, exponent, trial)) * unit * unit;
            if (have && !(error < least)) continue;
            have = true;
            least = error;
            out.d = static_cast<std::uint8_t>(exponent);
            std::copy(trial, trial + 32, magnitudes);
        }
        std::uint8_t codes[32];
        for (int i = 0; i < 32; ++i) codes[i] = code_of(magnitudes[i], weights[i] < 0);
        pack_low_bits(codes, out.codes);
    }

    // Nearest magnitudes of the grid 0, 0.5, 1, 1.5, 2, 3, 4, 6 in units of 2^(exponent - 127), and
    // the squared error left, in those units.
    static float round_to_grid(const float* weights, const float* importance, int exponent,
                               float* magnitudes) {
        const float inverse = bits_to_float(static_cast<std::uint32_t>(254 - exponent) << 23);
        Lanes error{};
        for (int i = 0; i < 32; i += 4) {
            const Lanes x = load_lanes(weights + i) * inverse;
            const Lanes magnitude = lane_max(x, -x);
            const Lanes v = lane_min(magnitude, spread(6));
            const Lanes step = v < 2.0f ? spread(0.5f) : v < 4.0f ? spread(1) : spread(2);
            const Lanes nearest = round_lanes(v / step) * step;
            const Lanes difference = nearest - magnitude;
            error += load_lanes(importance + i) * difference * difference;
            std::memcpy(magnitudes + i, &nearest, sizeof nearest);
        }
        return sum_lanes(error);
    }

    static std::uint8_t code_of(float magnitude, bool negative) {
        const int twice = static_cast<int>(2 * magnitude);
        const int code = twice <= 4 ? twice : twice == 6 ? 5 : twice == 8 ? 6 : 7;
        return static_cast<std::uint8_t>(code | (negative && code != 0 ? 8 : 0));
    }

    static bool finite(const Block& block) { return block.d <= kE8m0Finite; }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_mxfp4() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
