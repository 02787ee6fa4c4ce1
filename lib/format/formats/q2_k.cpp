// SPDX-License-Identifier: Apache-2.0
// q2_k: searched scale and minimum per 16 weights, quantised to 4 bits each per 256; codes 0..3.
#include "format/block_format.h"
#include "format/lanes.h"
#include "format/search.h"

namespace thimble {
namespace {

constexpr int kGroup = 16, kGroups = 16, kTop = 3, kTopScale = 15;

// One block on its way: w ~ d * scale * code - dmin * minimum.
struct Fit {
    const float *weights, *importance;
    float d = 0, dmin = 0;  // values that a half holds
    int scale[kGroups], minimum[kGroups];
    float codes[256];

    void start();
    void choose(int g);
    void refit();
};

float as_half(float f) { return f16_to_f32(f32_to_f16(f)); }

int nearest_scale(float value, float unit) {
    if (!(unit > 0)) return 0;
    return static_cast<int>(
        std::max(0.0f, round_even(std::min(value / unit, static_cast<float>(kTopScale)))));
}

// Values that are not negative as multiples 0..15 of the unit returned.
float search_unit(const float* values, const float* importance) {
    return as_half(-search_scale(values, importance, kGroups, {kTopScale, 0}));
}

void Fit::start() {
    float scales[kGroups], minima[kGroups], on_scale[kGroups], on_minimum[kGroups];
    for (int g = 0; g < kGroups; ++g) {
        const int at = g * kGroup;
        const ScaleMinimum fit =
            search_scale_minimum(weights + at, importance + at, kGroup, kTop, true);
        scales[g] = fit.scale;
        minima[g] = -fit.minimum;
        (void)assign_codes(weights + at, importance + at, kGroup, fit.scale, fit.minimum, 0, kTop,
                           codes + at);
        Lanes w{}, wll{};
        for (int i = at; i < at + kGroup; i += 4) {
            const Lanes l = load_lanes(codes + i);
            w += load_lanes(importance + i);
            wll += load_lanes(importance + i) * l * l;
        }
        on_scale[g] = sum_lanes(wll);
        on_minimum[g] = sum_lanes(w);
    }
    d = search_unit(scales, on_scale);
    dmin = search_unit(minima, on_minimum);
    for (int g = 0; g < kGroups; ++g) {
        scale[g] = nearest_scale(scales[g], d);
        minimum[g] = nearest_scale(minima[g], dmin);
    }
}

// The best of the nine neighbours, and its codes.
void Fit::choose(int g) {
    const int at = g * kGroup, scale_now = scale[g], minimum_now = minimum[g];
    float least = 0, trial[kGroup];
    bool have = false;
    for (int s = std::max(scale_now - 1, 0); s <= std::min(scale_now + 1, kTopScale); ++s) {
        for (int m = std::max(minimum_now - 1, 0); m <= std::min(minimum_now + 1, kTopScale); ++m) {
            const float error =
                assign_codes(weights + at, importance + at, kGroup, d * static_cast<float>(s),
                             -dmin * static_cast<float>(m), 0, kTop, trial);
            if (have && !(error < least)) continue;
            have = true;
            least = error;
            scale[g] = s, minimum[g] = m;
            std::copy(trial, trial + kGroup, codes + at);
        }
    }
}

// Least-squares d and dmin for the integers and codes chosen.
void Fit::refit() {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int g = 0; g < kGroups; ++g) {
        Lanes w{}, wl{}, wll{}, wlx{}, wx{};
        for (int i = g * kGroup; i < (g + 1) * kGroup; i += 4) {
            const Lanes v = load_lanes(importance + i), l = load_lanes(codes + i);
            const Lanes x = load_lanes(weights + i);
            w += v;
            wl += v * l;
            wll += v * l * l;
            wlx += v * l * x;
            wx += v * x;
        }
        const double s = scale[g], m = -minimum[g];
        aa += s * s * static_cast<double>(sum_lanes(wll));
        ab += s * m * static_cast<double>(sum_lanes(wl));
        bb += m * m * static_cast<double>(sum_lanes(w));
        ax += s * static_cast<double>(sum_lanes(wlx));
        bx += m * static_cast<double>(sum_lanes(wx));
    }
    const double determinant = aa * bb - ab * ab;
    if (!(determinant > 1e-7 * aa * bb)) return;
    const double a = (ax * bb - bx * ab) / determinant, b = (aa * bx - ab * ax) / determinant;
    if (!(a > 0) || !(b > 0)) return;
    d = as_half(static_cast<float>(a));
    dmin = as_half(static_cast<float>(b));
}

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_q2_k;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "q2_k",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 2.625,
                // sqrt(16) half steps of 2/3 (see q5_0) would be more than the weight itself.
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block* out,
                       std::int64_t count) {
        for (std::int64_t b = 0; b < count; ++b)
            encode_block(weights + 256 * b, importance ? importance + 256 * b : nullptr, out[b]);
    }

    static void encode_block(const float* weights, const float* importance, Block& out) {
        constexpr int kPasses = 3;
        float w[256];
        importance_or_ones(importance, w, 256);
        Fit fit;
        fit.weights = weights, fit.importance = w;
        fit.start();
        for (int pass = 0; pass < kPasses; ++pass) {
            for (int g = 0; g < kGroups; ++g) fit.choose(g);
            if (pass + 1 < kPasses) fit.refit();
        }
        pack(fit, out);
    }

    static void pack(const Fit& fit, Block& out) {
        out = {};
        out.d = f32_to_f16(fit.d);
        out.dmin = f32_to_f16(fit.dmin);
        for (int g = 0; g < kGroups; ++g)
            out.scales[g] = static_cast<std::uint8_t>(fit.scale[g] | fit.minimum[g] << 4);
        for (int i = 0; i < 256; ++i) {
            std::uint8_t& codes = out.codes[i / 128 * 32 + i % 32];
            codes = static_cast<std::uint8_t>(codes | static_cast<int>(fit.codes[i])
                                                          << (i / 32 % 4 * 2));
        }
    }

    static bool finite(const Block& block) {
        return finite_half(block.d) && finite_half(block.dmin);
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_q2_k() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
