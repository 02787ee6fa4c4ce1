// SPDX-License-Identifier: Apache-2.0
// The encoder that q3_k and iq4_xs share: 256 weights in groups, weight ~ d * scale * value with
// one half-precision d, a signed 6-bit scale per group and values of a grid. Every group's scale is
// searched freely; d is the unit in which these are nearest to whole numbers, a group counting as
// much as its error grows with its scale's; sixteen whole scales around each group's are tried on
// its weights; then d is solved for and they are tried again. A grid supplies
//   static constexpr int kGroup;                                     weights per group
//   static float search(weights, importance);                          best scale of a group
//   static Lanes errors(weights, importance, Lanes scales);            what they leave
//   static void nearest(weights, float scale, float* values);
#pragma once

#include "kernels/encode/search.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

template <class Grid>
struct KScaledBlock {
    static constexpr int kGroup = Grid::kGroup, kGroups = 256 / kGroup;
    std::uint16_t d;     // a half
    int scale[kGroups];  // -32..31
    float values[256];
};

// What the values chosen make of a group's error as a function of its scale.
struct ScaleSums {
    float qx, qq;
};
template <int n>
THIMBLE_LANE ScaleSums scale_sums(const float* weights, const float* importance,
                                  const float* values) {
    Lanes qx = spread(0), qq = qx;
    for (int i = 0; i < n; i += kLanes) {
        const Lanes q = load(values + i), wq = load(importance + i) * q;
        qx = qx + wq * load(weights + i);
        qq = qq + wq * q;
    }
    return {sum(qx), sum(qq)};
}

// The best of the sixteen whole scales nearest to the wanted one.
template <class Grid>
THIMBLE_LANE float choose_whole_scale(const float* weights, const float* importance, float wanted,
                                      float d) {
    const float steps = d != 0 ? wanted / d : 0.0f;
    // In this order of operands NaN, of weights too large, becomes a number.
    const Lanes first = min(max(round_even(spread(steps) - spread(7.5f)), spread(-32)), spread(31));
    const Lanes whole = min(first + counted(), spread(31));
    const Lanes error = Grid::errors(weights, importance, whole * spread(d));
    return lane_of(whole, best_lane(spread(0) - error));
}

// importance: null or one value per weight.
template <class Grid>
static inline void encode_k_scaled(const float* weights, const float* importance,
                                   KScaledBlock<Grid>& out) {
    using Block = KScaledBlock<Grid>;
    constexpr int kGroup = Block::kGroup, kGroups = Block::kGroups;
    float w[256], wanted[kGroups], curvature[kGroups];
    importance_or_ones(importance, w, 256);
    bool held = true;
    for (int g = 0; g < kGroups; ++g) {
        const int at = g * kGroup;
        wanted[g] = Grid::search(weights + at, w + at);
        held = held && wanted[g] - wanted[g] == 0;
        Grid::nearest(weights + at, wanted[g], out.values + at);
        curvature[g] = scale_sums<kGroup>(weights + at, w + at, out.values + at).qq;
    }
    // Weights too large for any scale: a d that is no number says so.
    out.d =
        held ? f32_to_f16(search_scale(wanted, curvature, kGroups, {32, 31}, kOffsets, 2)) : 0x7c00;
    constexpr int kPasses = 2;
    for (int pass = 0; pass < kPasses; ++pass) {
        const float unit = f16_to_f32(out.d);
        double aa = 0, ax = 0;
        for (int g = 0; g < kGroups; ++g) {
            const float *x = weights + g * kGroup, *v = w + g * kGroup;
            float* values = out.values + g * kGroup;
            const float scale = choose_whole_scale<Grid>(x, v, wanted[g], unit);
            out.scale[g] = static_cast<int>(scale);
            Grid::nearest(x, unit * scale, values);
            const ScaleSums sums = scale_sums<kGroup>(x, v, values);
            ax += static_cast<double>(scale) * static_cast<double>(sums.qx);
            aa += static_cast<double>(scale) * static_cast<double>(scale) *
                  static_cast<double>(sums.qq);
        }
        if (pass + 1 < kPasses && held && aa > 0) out.d = f32_to_f16(static_cast<float>(ax / aa));
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
