// SPDX-License-Identifier: Apache-2.0
// q2_k: sixteen groups of 16 weights with a scale and a minimum of 4 bits each in units of the
// block's d and dmin, codes 0..3. Every group's scale and minimum are searched freely; d and dmin
// are the units in which these are nearest to whole numbers; sixteen pairs around each group's are
// tried on its weights; then the units are solved for and the pairs tried again.
#pragma once

#include "kernels/encode/search.h"
#include "kernels/layout/q2_k.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Q2Block {
    static constexpr int kGroup = 16, kGroups = 16, kTop = 3, kTopScale = 15;
    float d = 0, dmin = 0;  // values that a half holds
    float scale[kGroups], minimum[kGroups];
    float codes[256];
};

THIMBLE_LANE float as_half(float f) { return f16_to_f32(f32_to_f16(f)); }

// Values that are not negative as multiples 0..15 of the unit returned.
THIMBLE_LANE float search_unit(const float* values, const float* importance) {
    return as_half(
        -search_scale(values, importance, Q2Block::kGroups, {Q2Block::kTopScale, 0}, kOffsets, 2));
}

// Free scales and minima, and the units that suit them.
THIMBLE_LANE void start(const float* weights, const float* importance, Q2Block& out) {
    float on_scale[Q2Block::kGroups], on_minimum[Q2Block::kGroups];
    for (int g = 0; g < Q2Block::kGroups; ++g) {
        const int at = g * Q2Block::kGroup;
        const ScaleMinimum fit = search_scale_minimum(
            weights + at, importance + at, Q2Block::kGroup, Q2Block::kTop, true, {-1.2f, 1}, 3);
        out.scale[g] = fit.scale;
        out.minimum[g] = -fit.minimum;
        nearest_codes(weights + at, Q2Block::kGroup, fit.scale, fit.minimum, 0, Q2Block::kTop,
                      out.codes + at);
        const Lanes w = load(importance + at), l = load(out.codes + at);
        on_scale[g] = sum(w * l * l);
        on_minimum[g] = sum(w);
    }
    out.d = search_unit(out.scale, on_scale);
    out.dmin = search_unit(out.minimum, on_minimum);
    for (int g = 0; g < Q2Block::kGroups; ++g) {
        out.scale[g] = out.d > 0 ? out.scale[g] / out.d : 0.0f;
        out.minimum[g] = out.dmin > 0 ? out.minimum[g] / out.dmin : 0.0f;
    }
}

// The best of four whole scales by four whole minima around those of the group, and its codes.
THIMBLE_LANE void choose_pair(const float* weights, const float* importance, int g, Q2Block& out) {
    const Lanes which = counted(), zero = spread(0), most = spread(Q2Block::kTopScale);
    const Lanes row = floats(truncate(which * spread(0.25f)));  // 0 0 0 0 1 1 1 1 ...
    const Lanes column = which - row * spread(4);
    const Lanes about_scale = min(max(spread(out.scale[g]), zero), most);
    const Lanes about_minimum = min(max(spread(out.minimum[g]), zero), most);
    const Lanes scale = min(max(round_even(about_scale - spread(1.5f)) + row, zero), most);
    const Lanes minimum = min(max(round_even(about_minimum - spread(1.5f)) + column, zero), most);
    const float *x = weights + g * Q2Block::kGroup, *w = importance + g * Q2Block::kGroup;
    const Lanes error = errors_left(x, w, Q2Block::kGroup, scale * spread(out.d),
                                    zero - minimum * spread(out.dmin), 0, Q2Block::kTop);
    const int best = best_lane(zero - error);
    out.scale[g] = lane_of(scale, best);
    out.minimum[g] = lane_of(minimum, best);
    nearest_codes(x, Q2Block::kGroup, out.d * out.scale[g], -out.dmin * out.minimum[g], 0,
                  Q2Block::kTop, out.codes + g * Q2Block::kGroup);
}

// Least-squares d and dmin for the integers and codes chosen.
THIMBLE_LANE void refit(const float* weights, const float* importance, Q2Block& out) {
    UnitSums sums;  // a = scale * code, b = -minimum
    for (int g = 0; g < Q2Block::kGroups; ++g) {
        const int at = g * Q2Block::kGroup;
        add(sums, load(importance + at), load(weights + at),
            spread(out.scale[g]) * load(out.codes + at), spread(-out.minimum[g]));
    }
    float d = 0, dmin = 0;
    if (!solve(sums, d, dmin)) return;
    out.d = as_half(d);
    out.dmin = as_half(dmin);
}

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_q2_k>::Block& out) {
    float w[256];
    importance_or_ones(importance, w, 256);
    Q2Block plain;
    start(weights, w, plain);
    constexpr int kPasses = 3;
    for (int pass = 0; pass < kPasses; ++pass) {
        for (int g = 0; g < Q2Block::kGroups; ++g) choose_pair(weights, w, g, plain);
        if (pass + 1 < kPasses) refit(weights, w, plain);
    }
    out = {};
    out.d = f32_to_f16(plain.d);
    out.dmin = f32_to_f16(plain.dmin);
    for (int g = 0; g < Q2Block::kGroups; ++g)
        out.scales[g] = static_cast<std::uint8_t>(static_cast<int>(plain.scale[g]) |
                                                  static_cast<int>(plain.minimum[g]) << 4);
    std::uint8_t codes[256];
    to_bytes(plain.codes, 256, 0, codes);
    for (int line = 0; line < 8; ++line) {
        for (int i = 0; i < 32; ++i) {
            std::uint8_t& at = out.codes[line / 4 * 32 + i];
            at = static_cast<std::uint8_t>(at | codes[32 * line + i] << (2 * (line % 4)));
        }
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
