// SPDX-License-Identifier: Apache-2.0
#include "format/k_affine.h"

#include <algorithm>
#include <cmath>

#include "format/lanes.h"
#include "format/search.h"
#include "kernels/layout/half.h"

namespace thimble {

namespace {

constexpr int kGroups = 8, kGroup = 32, kTopScale = 63;

std::uint8_t nearest_scale(float value, float unit) {
    if (!(unit > 0)) return 0;
    return static_cast<std::uint8_t>(
        std::clamp(round_even(std::min(value / unit, 64.0f)), 0.0f, static_cast<float>(kTopScale)));
}

struct Units {
    float d, dmin;  // values that a half holds
};

Units round_units(float d, float dmin) {
    return {f16_to_f32(f32_to_f16(d)), f16_to_f32(f32_to_f16(dmin))};
}

// A group's integers and what they leave.
struct GroupChoice {
    std::uint8_t scale, minimum;
    float error;
};

// The least weighted mean of scale * code - weight, which is the minimum to subtract.
float best_minimum(const float* weights, const float* importance, const float* codes, float scale) {
    Lanes sum{}, total{};
    for (int i = 0; i < kGroup; i += 4) {
        const Lanes w = load_lanes(importance + i);
        sum += w * (load_lanes(codes + i) * scale - load_lanes(weights + i));
        total += w;
    }
    return sum_lanes(sum) / sum_lanes(total);
}

// Tries the neighbours of the rounded scale, each with the minimum that suits its codes.
GroupChoice choose_group(const float* weights, const float* importance, int top, Units unit,
                         ScaleMinimum fit, float* codes) {
    const int middle = nearest_scale(fit.scale, unit.d);
    const std::uint8_t minimum = nearest_scale(-fit.minimum, unit.dmin);
    GroupChoice best{0, 0, 0};
    bool have = false;
    float trial[kGroup];
    const auto consider = [&](std::uint8_t scale, std::uint8_t m) {
        const float error =
            assign_codes(weights, importance, kGroup, unit.d * static_cast<float>(scale),
                         -unit.dmin * static_cast<float>(m), 0, top, trial);
        if (have && !(error < best.error)) return;
        have = true;
        best = {scale, m, error};
        std::copy(trial, trial + kGroup, codes);
    };
    for (int s = std::max(middle - 1, 0); s <= std::min(middle + 1, kTopScale); ++s) {
        const auto scale = static_cast<std::uint8_t>(s);
        consider(scale, minimum);
        const float wanted =
            best_minimum(weights, importance, trial, unit.d * static_cast<float>(scale));
        const std::uint8_t other = nearest_scale(wanted, unit.dmin);
        if (other != minimum) consider(scale, other);
    }
    return best;
}

// Least-squares d and dmin for the integers and codes chosen.
Units refit_units(const float* weights, const float* importance, const KAffineBlock& block,
                  const float* codes, Units unit) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int g = 0; g < kGroups; ++g) {
        const float s = static_cast<float>(block.scales.scale[g]);
        const float m = -static_cast<float>(block.scales.minimum[g]);
        Lanes sw{}, sl{}, sll{}, slx{}, sx{};
        for (int i = g * kGroup; i < (g + 1) * kGroup; i += 4) {
            const Lanes w = load_lanes(importance + i), x = load_lanes(weights + i);
            const Lanes l = load_lanes(codes + i);
            sw += w;
            sl += w * l;
            sll += w * l * l;
            slx += w * l * x;
            sx += w * x;
        }
        aa += static_cast<double>(s * s) * static_cast<double>(sum_lanes(sll));
        ab += static_cast<double>(s * m) * static_cast<double>(sum_lanes(sl));
        bb += static_cast<double>(m * m) * static_cast<double>(sum_lanes(sw));
        ax += static_cast<double>(s) * static_cast<double>(sum_lanes(slx));
        bx += static_cast<double>(m) * static_cast<double>(sum_lanes(sx));
    }
    const double determinant = aa * bb - ab * ab;
    if (!(determinant > 1e-7 * aa * bb)) return unit;
    const double d = (ax * bb - bx * ab) / determinant, dmin = (aa * bx - ab * ax) / determinant;
    if (!(d > 0) || !(dmin > 0)) return unit;
    return round_units(static_cast<float>(d), static_cast<float>(dmin));
}

}  // namespace

void encode_k_affine(const float* weights, const float* importance, int top, KAffineBlock& out) {
    float w[kGroups * kGroup], codes[kGroups * kGroup];
    importance_or_ones(importance, w, kGroups * kGroup);
    ScaleMinimum fits[kGroups];
    float most_scale = 0, most_minimum = 0;
    for (int g = 0; g < kGroups; ++g) {
        fits[g] = search_scale_minimum(weights + g * kGroup, w + g * kGroup, kGroup, top, true);
        most_scale = std::max(most_scale, fits[g].scale);
        most_minimum = std::max(most_minimum, -fits[g].minimum);
    }
    Units unit = round_units(most_scale / kTopScale, most_minimum / kTopScale);
    for (int pass = 0; pass < 2; ++pass) {
        for (int g = 0; g < kGroups; ++g) {
            const int at = g * kGroup;
            const GroupChoice choice =
                choose_group(weights + at, w + at, top, unit, fits[g], codes + at);
            out.scales.scale[g] = choice.scale;
            out.scales.minimum[g] = choice.minimum;
        }
        if (pass == 0) unit = refit_units(weights, w, out, codes, unit);
    }
    out.d = f32_to_f16(unit.d);
    out.dmin = f32_to_f16(unit.dmin);
    for (int i = 0; i < kGroups * kGroup; ++i) out.codes[i] = static_cast<std::uint8_t>(codes[i]);
}

}  // namespace thimble
