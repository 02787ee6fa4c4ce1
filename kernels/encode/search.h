// SPDX-License-Identifier: Apache-2.0
// Scale searches: for one group of weights, the scale (and minimum) whose nearest codes leave the
// least weighted squared error. Sixteen candidates are tried at once, one per lane: a ladder of
// scales around the one that spans the group; each is replaced by the least-squares solution for
// the codes that it gives, which cannot raise its error, and so on; the best lane wins.
// differs: llama.cpp's searches solve once per rung and keep one candidate.
#pragma once

#include "kernels/encode/lanes.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// Below this the half-precision scales are zero anyway, and reciprocals would overflow.
constexpr float kTiny = 1e-20f;
// Above this squares would overflow; scales of that size do not fit a half, so any will do.
constexpr float kHuge = 1e18f;

// Sixteen evenly spaced values from first to last.
struct Ladder {
    float first, last;
};
THIMBLE_LANE Lanes rungs(Ladder ladder) {
    const float step = (ladder.last - ladder.first) / (kLanes - 1);
    return spread(ladder.first) + spread(step) * counted();
}

THIMBLE_LANE int best_lane(Lanes score) {
    float lane[kLanes];
    store(lane, score);
    const float best = greatest_lane(score);
    for (int i = 0; i < kLanes; ++i) {
        if (lane[i] == best) return i;
    }
    return 0;
}
THIMBLE_LANE float lane_of(Lanes v, int i) {
    float lane[kLanes];
    store(lane, v);
    return lane[i];
}

// n is a multiple of 4. Lanes past the end repeat the first weight.
struct Extremes {
    float least, most;
};
THIMBLE_LANE Extremes extremes(const float* weights, int n) {
    Lanes low = spread(weights[0]), high = low;
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        low = min(low, load(weights + i));
        high = max(high, load(weights + i));
    }
    Extremes e{least_lane(low), greatest_lane(high)};
    for (; i < n; ++i) {
        e.least = weights[i] < e.least ? weights[i] : e.least;
        e.most = weights[i] > e.most ? weights[i] : e.most;
    }
    return e;
}

// What suits most groups: offsets past the range cut off an outlier that matters little.
constexpr Ladder kOffsets{-2, 2};

// weight ~ scale * code, code in [-negative, positive], negative >= positive.
struct SymmetricRange {
    int negative, positive;
};
// The scale; 0 when all weights are zero. On rung `offset` the peak would be code -(negative +
// offset), which may be past the range: then it is cut off.
THIMBLE_LANE float search_scale(const float* weights, const float* importance, int n,
                                SymmetricRange range, Ladder offsets, int passes) {
    const Extremes e = extremes(weights, n);
    const float peak = -e.least > e.most ? e.least : e.most;  // signed, of the largest magnitude
    if (!(peak > kTiny || peak < -kTiny)) return 0;
    if (peak > kHuge || peak < -kHuge) return peak;
    const Lanes least = spread(-static_cast<float>(range.negative));
    const Lanes most = spread(static_cast<float>(range.positive));
    Lanes inverse = (least - rungs(offsets)) / spread(peak), scale, score;
    for (int pass = 0; pass < passes; ++pass) {
        Lanes lx = spread(0), ll = lx;
        for (int i = 0; i < n; ++i) {
            const Lanes x = spread(weights[i]), w = spread(importance[i]);
            const Lanes code = round_even(min(max(x * inverse, least), most));
            const Lanes wl = w * code;
            lx = lx + wl * x;
            ll = ll + wl * code;
        }
        // Codes all zero: no scale suits them, and the lane stays out of the race.
        const IntLanes valid = greater(ll, spread(0)) & greater(magnitude(lx), spread(0));
        scale = select(valid, lx / ll, spread(0));
        score = select(valid, scale * lx, spread(-1));
        inverse = select(valid, ll / lx, spread(0));
    }
    return lane_of(scale, best_lane(score));
}

// weight ~ scale * code + minimum, code in [0, top], minimum <= 0 if `offset_down`. On rung
// `offset` the weights' width is top + offset steps.
struct ScaleMinimum {
    float scale = 0, minimum = 0;
};
THIMBLE_LANE ScaleMinimum search_scale_minimum(const float* weights, const float* importance, int n,
                                               int top, bool offset_down, Ladder offsets,
                                               int passes) {
    const Extremes e = extremes(weights, n);
    const float least = offset_down && e.least > 0 ? 0.0f : e.least;
    const float width = e.most - least;
    if (!(width > kTiny)) return {0, least};
    if (width > kHuge) return {width, least};
    Lanes sw = spread(0), sx = sw, sxx = sw;
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Lanes x = load(weights + i) - spread(least), w = load(importance + i);
        sw = sw + w;
        sx = sx + w * x;
        sxx = sxx + w * x * x;
    }
    float w_total = sum(sw), x_total = sum(sx), xx_total = sum(sxx);
    for (; i < n; ++i) {
        const float x = weights[i] - least;
        w_total += importance[i];
        x_total += importance[i] * x;
        xx_total += importance[i] * x * x;
    }
    const Lanes all_w = spread(w_total), all_x = spread(x_total), all_xx = spread(xx_total);
    const Lanes zero = spread(0), most = spread(static_cast<float>(top));
    // Minima count from `least`.
    Lanes inverse = (most + rungs(offsets)) / spread(width), minimum = zero, scale, error;
    for (int pass = 0; pass < passes; ++pass) {
        Lanes sl = zero, sll = zero, slx = zero;
        for (int k = 0; k < n; ++k) {
            const Lanes x = spread(weights[k]) - spread(least), w = spread(importance[k]);
            const Lanes code = round_even(min(max((x - minimum) * inverse, zero), most));
            const Lanes wl = w * code;
            sl = sl + wl;
            sll = sll + wl * code;
            slx = slx + wl * x;
        }
        const Lanes determinant = all_w * sll - sl * sl;
        const IntLanes solvable = greater(determinant, spread(1e-6f) * all_w * sll);
        Lanes s = (all_w * slx - all_x * sl) / determinant;
        Lanes m = (sll * all_x - sl * slx) / determinant;
        if (offset_down) {
            const Lanes highest = spread(-least);  // of a minimum that counts from `least`
            const IntLanes above = greater(m, highest);
            m = select(above, highest, m);
            s = select(above, (slx - highest * sl) / sll, s);
        }
        const IntLanes valid = solvable & greater(s, zero);
        // What is left of sum w (x - s code - m)^2.
        const Lanes left = (all_xx - spread(2) * (s * slx + m * all_x)) +
                           (s * s * sll + spread(2) * s * m * sl + m * m * all_w);
        scale = select(valid, s, zero);
        minimum = select(valid, m, zero);
        error = select(valid, left, spread(3e38f));
        inverse = select(valid, spread(1) / s, zero);
    }
    // Weights that lie on a grid of fewer than `top` steps fit several minima alike; encoders put
    // the least weight at code 0, and the minimum that they chose is the one to find again.
    const float alike = least_lane(error) + 1e-6f * xx_total;
    const int best = best_lane(select(greater(error, spread(alike)), spread(-3e38f), minimum));
    const float found = lane_of(scale, best);
    if (!(found > 0)) return {width / static_cast<float>(top), least};
    return {found, lane_of(minimum, best) + least};
}

// Sixteen sums at once: what candidate scales and minima leave of a group of n weights.
THIMBLE_LANE Lanes errors_left(const float* weights, const float* importance, int n, Lanes scale,
                               Lanes minimum, int least, int most) {
    const Lanes low = spread(static_cast<float>(least)), high = spread(static_cast<float>(most));
    const IntLanes whole = greater(magnitude(scale), spread(0));
    const Lanes inverse = select(whole, spread(1) / scale, spread(0));
    Lanes error = spread(0);
    for (int i = 0; i < n; ++i) {
        const Lanes x = spread(weights[i]) - minimum;
        const Lanes code = round_even(min(max(x * inverse, low), high));
        const Lanes difference = code * scale - x;
        error = error + spread(importance[i]) * difference * difference;
    }
    return error;
}

// Nearest codes of n weights, a multiple of 16, for one scale and minimum.
THIMBLE_LANE void nearest_codes(const float* weights, int n, float scale, float minimum, int least,
                                int most, float* codes) {
    const Lanes low = spread(static_cast<float>(least)), high = spread(static_cast<float>(most));
    const Lanes inverse = spread(scale != 0 ? 1.0f / scale : 0.0f);
    for (int i = 0; i < n; i += kLanes) {
        const Lanes x = load(weights + i) - spread(minimum);
        store(codes + i, round_even(min(max(x * inverse, low), high)));
    }
}

// Whole floats plus `offset`, each 0..255, to bytes; n is a multiple of 16.
THIMBLE_LANE void to_bytes(const float* codes, int n, int offset, std::uint8_t* out) {
    const Lanes shift = spread(static_cast<float>(offset));
    for (int i = 0; i < n; i += kLanes) store_bytes(out + i, truncate(load(codes + i) + shift));
}

// Importance of n weights, a multiple of 16, where none is given or all of it is zero: ones, for
// plain squared error.
THIMBLE_LANE void importance_or_ones(const float* importance, float* out, int n) {
    Lanes total = spread(0);
    for (int i = 0; importance && i < n; i += kLanes) {
        const Lanes w = load(importance + i);
        store(out + i, w);
        total = total + w;
    }
    if (sum(total) > 0) return;
    for (int i = 0; i < n; i += kLanes) store(out + i, spread(1));
}

// Weighted least squares for weight ~ d a + dmin b: what a block's units are solved from.
struct UnitSums {
    Lanes aa = spread(0), ab = aa, bb = aa, ax = aa, bx = aa;
};
THIMBLE_LANE void add(UnitSums& sums, Lanes w, Lanes x, Lanes a, Lanes b) {
    const Lanes wa = w * a, wb = w * b;
    sums.aa = sums.aa + wa * a;
    sums.ab = sums.ab + wa * b;
    sums.bb = sums.bb + wb * b;
    sums.ax = sums.ax + wa * x;
    sums.bx = sums.bx + wb * x;
}
// False where a and b are nearly parallel, or a unit would not be positive.
THIMBLE_LANE bool solve(const UnitSums& sums, float& d, float& dmin) {
    const double aa = static_cast<double>(sum(sums.aa)), ab = static_cast<double>(sum(sums.ab)),
                 bb = static_cast<double>(sum(sums.bb)), ax = static_cast<double>(sum(sums.ax)),
                 bx = static_cast<double>(sum(sums.bx));
    const double determinant = aa * bb - ab * ab;
    if (!(determinant > 1e-6 * aa * bb)) return false;
    const double exact_d = (ax * bb - bx * ab) / determinant;
    const double exact_dmin = (aa * bx - ab * ax) / determinant;
    if (!(exact_d > 0) || !(exact_dmin > 0)) return false;
    d = static_cast<float>(exact_d);
    dmin = static_cast<float>(exact_dmin);
    return true;
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
