// SPDX-License-Identifier: Apache-2.0
// The encoder that q4_k and q5_k share: eight groups of 32 weights, each with a 6-bit scale and
// minimum in units of the block's d and dmin. Every group's scale and minimum are searched freely;
// with the units that these give, sixteen pairs of integers around them are tried on the weights;
// then the units are solved for and the pairs tried again.
#pragma once

#include "kernels/encode/search.h"
#include "kernels/layout/k_scales.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct KAffineBlock {
    std::uint16_t d, dmin;  // halves
    KScales scales;
    std::uint8_t codes[256];  // 0..top
};

constexpr int kGroups = 8, kGroup = 32, kTopScale = 63;

struct Units {
    float d, dmin;  // values that a half holds
};
THIMBLE_LANE Units round_units(float d, float dmin) {
    return {f16_to_f32(f32_to_f16(d)), f16_to_f32(f32_to_f16(dmin))};
}

// A group as the search left it, and its weighted mean.
struct GroupFit {
    ScaleMinimum fit;
    float mean;
};
struct GroupChoice {
    std::uint8_t scale, minimum;
    float error;
};

// The best of four scales by four minima around the fit. A line of slope s through the weights'
// mean has its minimum at mean - s * (mean code).
THIMBLE_LANE GroupChoice choose_group(const float* weights, const float* importance, int top,
                                      Units unit, const GroupFit& group) {
    const float inverse_d = unit.d > 0 ? 1.0f / unit.d : 0.0f;
    const float inverse_dmin = unit.dmin > 0 ? 1.0f / unit.dmin : 0.0f;
    const float mean_code =
        group.fit.scale > 0 ? (group.mean - group.fit.minimum) / group.fit.scale : 0.0f;
    const Lanes which = counted(), zero = spread(0), most = spread(static_cast<float>(kTopScale));
    const Lanes row = floats(truncate(which * spread(0.25f)));  // 0 0 0 0 1 1 1 1 ...
    const Lanes first = spread(round_even(group.fit.scale * inverse_d - 1.5f));
    const Lanes scale = min(max(first + row, zero), most);
    const Lanes wanted =
        (scale * spread(unit.d * mean_code) - spread(group.mean)) * spread(inverse_dmin);
    const Lanes column = which - row * spread(4.0f);
    const Lanes minimum =
        min(max(round_even(min(wanted, most) - spread(1.5f)) + column, zero), most);
    const Lanes error = errors_left(weights, importance, kGroup, scale * spread(unit.d),
                                    zero - minimum * spread(unit.dmin), 0, top);
    const int best = best_lane(zero - error);
    return {static_cast<std::uint8_t>(lane_of(scale, best)),
            static_cast<std::uint8_t>(lane_of(minimum, best)), lane_of(error, best)};
}

// Least-squares d and dmin for the integers and codes chosen.
THIMBLE_LANE Units refit_units(const float* weights, const float* importance, const KScales& scales,
                               const float* codes, Units unit) {
    UnitSums sums;  // a = scale * code, b = -minimum
    for (int g = 0; g < kGroups; ++g) {
        const Lanes s = spread(static_cast<float>(scales.scale[g]));
        const Lanes b = spread(-static_cast<float>(scales.minimum[g]));
        for (int i = g * kGroup; i < (g + 1) * kGroup; i += kLanes)
            add(sums, load(importance + i), load(weights + i), s * load(codes + i), b);
    }
    float d = 0, dmin = 0;
    return solve(sums, d, dmin) ? round_units(d, dmin) : unit;
}

THIMBLE_LANE float weighted_mean(const float* weights, const float* importance) {
    Lanes total = spread(0), sum_x = total;
    for (int i = 0; i < kGroup; i += kLanes) {
        const Lanes w = load(importance + i);
        total = total + w;
        sum_x = sum_x + w * load(weights + i);
    }
    const float all = sum(total);
    return all > 0 ? sum(sum_x) / all : 0.0f;
}

// Integers and codes of all groups for given units.
struct Assignment {
    Units unit;
    KScales scales;
    float codes[kGroups * kGroup];
    float error;
};
static inline void assign(const float* weights, const float* importance, int top, Units unit,
                          const GroupFit (&groups)[kGroups], Assignment& out) {
    out.unit = unit;
    out.error = 0;
    for (int g = 0; g < kGroups; ++g) {
        const int at = g * kGroup;
        const GroupChoice choice =
            choose_group(weights + at, importance + at, top, unit, groups[g]);
        out.scales.scale[g] = choice.scale;
        out.scales.minimum[g] = choice.minimum;
        out.error += choice.error;
        nearest_codes(weights + at, kGroup, unit.d * static_cast<float>(choice.scale),
                      -unit.dmin * static_cast<float>(choice.minimum), 0, top, out.codes + at);
    }
}

// importance: null or one value per weight.
static inline void encode_k_affine(const float* weights, const float* importance, int top,
                                   KAffineBlock& out) {
    float w[kGroups * kGroup];
    importance_or_ones(importance, w, kGroups * kGroup);
    GroupFit groups[kGroups];
    float most_scale = 0, most_minimum = 0;
    for (int g = 0; g < kGroups; ++g) {
        const float *x = weights + g * kGroup, *v = w + g * kGroup;
        const ScaleMinimum fit = search_scale_minimum(x, v, kGroup, top, true, {-2, 1}, 2);
        groups[g] = {fit, weighted_mean(x, v)};
        most_scale = fit.scale > most_scale ? fit.scale : most_scale;
        most_minimum = -fit.minimum > most_minimum ? -fit.minimum : most_minimum;
    }
    Assignment first, second;
    assign(weights, w, top, round_units(most_scale / kTopScale, most_minimum / kTopScale), groups,
           first);
    assign(weights, w, top, refit_units(weights, w, first.scales, first.codes, first.unit), groups,
           second);
    const Assignment& best = second.error < first.error ? second : first;
    out.d = f32_to_f16(best.unit.d);
    out.dmin = f32_to_f16(best.unit.dmin);
    out.scales = best.scales;
    to_bytes(best.codes, kGroups * kGroup, 0, out.codes);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
