// SPDX-License-Identifier: Apache-2.0
#include "format/search.h"

#include <algorithm>
#include <cmath>

#include "format/lanes.h"

namespace thimble {

namespace {

// Below this the half-precision scales are zero anyway, and reciprocals would overflow.
constexpr float kTiny = 1e-20f;

struct Extremes {
    float least, most;
};

Extremes extremes(const float* weights, int n) {
    Lanes low = load_lanes(weights), high = low;
    for (int i = 4; i < n; i += 4) {
        low = lane_min(low, load_lanes(weights + i));
        high = lane_max(high, load_lanes(weights + i));
    }
    return {std::min(std::min(low[0], low[1]), std::min(low[2], low[3])),
            std::max(std::max(high[0], high[1]), std::max(high[2], high[3]))};
}

// Sums over the codes l that each of `count` candidates gives, with w the importance. Candidates
// share a pass, so that one's arithmetic hides the other's latency.
struct SymmetricSums {
    float lx, ll;
};
template <int count>
void symmetric_sums(const float* weights, const float* importance, int n, const float* inverse,
                    SymmetricRange range, SymmetricSums* out) {
    const Lanes least = spread(-static_cast<float>(range.negative));
    const Lanes most = spread(static_cast<float>(range.positive));
    Lanes lx[count]{}, ll[count]{};
    for (int i = 0; i < n; i += 4) {
        const Lanes x = load_lanes(weights + i);
        const Lanes w = load_lanes(importance + i);
        for (int c = 0; c < count; ++c) {
            const Lanes l = round_lanes(lane_min(lane_max(x * inverse[c], least), most));
            const Lanes wl = w * l;
            lx[c] += wl * x;
            ll[c] += wl * l;
        }
    }
    for (int c = 0; c < count; ++c) out[c] = {sum_lanes(lx[c]), sum_lanes(ll[c])};
}

struct AffineSums {
    float l, ll, lx;
};
template <int count>
void affine_sums(const float* weights, const float* importance, int n, const float* inverse,
                 float minimum, int top, AffineSums* out) {
    const Lanes most = spread(static_cast<float>(top));
    const Lanes shift = spread(minimum);
    Lanes sl[count]{}, sll[count]{}, slx[count]{};
    for (int i = 0; i < n; i += 4) {
        const Lanes x = load_lanes(weights + i);
        const Lanes w = load_lanes(importance + i);
        const Lanes shifted = x - shift;
        for (int c = 0; c < count; ++c) {
            const Lanes l = round_lanes(lane_min(lane_max(shifted * inverse[c], Lanes{}), most));
            const Lanes wl = w * l;
            sl[c] += wl;
            sll[c] += wl * l;
            slx[c] += wl * x;
        }
    }
    for (int c = 0; c < count; ++c)
        out[c] = {sum_lanes(sl[c]), sum_lanes(sll[c]), sum_lanes(slx[c])};
}

struct Moments {
    double w = 0, x = 0, xx = 0;
};
Moments moments(const float* weights, const float* importance, int n) {
    Moments m;
    Lanes sw{}, sx{}, sxx{};
    for (int i = 0; i < n; i += 4) {
        const Lanes x = load_lanes(weights + i);
        const Lanes w = load_lanes(importance + i);
        sw += w;
        sx += w * x;
        sxx += w * x * x;
    }
    m.w = static_cast<double>(sum_lanes(sw));
    m.x = static_cast<double>(sum_lanes(sx));
    m.xx = static_cast<double>(sum_lanes(sxx));
    return m;
}

// Least-squares scale and minimum for fixed codes, and the squared error left.
struct AffineFit {
    ScaleMinimum best;
    double error;
    bool valid;
};
AffineFit solve(const Moments& m, const AffineSums& s, bool offset_down) {
    const double l = static_cast<double>(s.l), ll = static_cast<double>(s.ll),
                 lx = static_cast<double>(s.lx);
    const double determinant = m.w * ll - l * l;
    if (!(determinant > 1e-7 * m.w * ll)) return {{}, 0, false};
    double scale = (m.w * lx - m.x * l) / determinant;
    double minimum = (ll * m.x - l * lx) / determinant;
    if (offset_down && minimum > 0) {
        minimum = 0;
        scale = lx / ll;
    }
    return {{static_cast<float>(scale), static_cast<float>(minimum)},
            m.xx - scale * lx - minimum * m.x,
            scale > 0};
}

}  // namespace

void importance_or_ones(const float* importance, float* out, int n) {
    float sum = 0;
    if (importance) {
        std::copy(importance, importance + n, out);
        for (int i = 0; i < n; ++i) sum += importance[i];
    }
    if (!(sum > 0)) std::fill(out, out + n, 1.0f);  // none given, or all zero: plain error
}

float search_scale(const float* weights, const float* importance, int n, SymmetricRange range) {
    const Extremes e = extremes(weights, n);
    const float peak = -e.least > e.most ? e.least : e.most;  // signed, of the largest magnitude
    if (!(std::fabs(peak) > kTiny)) return 0;
    constexpr int kRungs = 24;
    // The peak lands on code -(negative + offset); offset from -1.6 to +0.7.
    double best_score = -1;
    float best = 0;
    const auto consider = [&](const SymmetricSums& s) {
        if (!(s.ll > 0)) return;
        const double scale = static_cast<double>(s.lx) / static_cast<double>(s.ll);
        const double score = scale * static_cast<double>(s.lx);
        if (score > best_score && scale != 0) {
            best_score = score;
            best = static_cast<float>(scale);
        }
    };
    constexpr int kTogether = 4;
    SymmetricSums sums[kTogether];
    for (int rung = 0; rung < kRungs; rung += kTogether) {
        float inverse[kTogether];
        for (int c = 0; c < kTogether; ++c) {
            const float offset = -1.6f + 0.1f * static_cast<float>(rung + c);
            inverse[c] = -(static_cast<float>(range.negative) + offset) / peak;
        }
        symmetric_sums<kTogether>(weights, importance, n, inverse, range, sums);
        for (const SymmetricSums& s : sums) consider(s);
    }
    for (int pass = 0; pass < 2 && best != 0; ++pass) {
        const float inverse = 1.0f / best;
        symmetric_sums<1>(weights, importance, n, &inverse, range, sums);
        consider(sums[0]);
    }
    return best;
}

ScaleMinimum search_scale_minimum(const float* weights, const float* importance, int n, int top,
                                  bool offset_down) {
    const Extremes e = extremes(weights, n);
    const float least = offset_down ? std::min(e.least, 0.0f) : e.least;
    const float width = e.most - least;
    if (!(width > kTiny)) return {0, least};
    const Moments m = moments(weights, importance, n);
    AffineFit best{{width / static_cast<float>(top), least}, 1e300, true};
    const auto consider = [&](const AffineSums& sums) {
        const AffineFit fit = solve(m, sums, offset_down);
        if (fit.valid && fit.error < best.error) best = fit;
    };
    constexpr int kRungs = 16, kTogether = 2;
    AffineSums sums[kTogether];
    for (int rung = 0; rung < kRungs; rung += kTogether) {
        float inverse[kTogether];
        for (int c = 0; c < kTogether; ++c) {
            const float offset = -1.0f + 0.125f * static_cast<float>(rung + c);
            inverse[c] = (static_cast<float>(top) + offset) / width;
        }
        affine_sums<kTogether>(weights, importance, n, inverse, least, top, sums);
        for (const AffineSums& s : sums) consider(s);
    }
    for (int pass = 0; pass < 3; ++pass) {
        const double before = best.error;
        const float inverse = 1.0f / best.best.scale;
        affine_sums<1>(weights, importance, n, &inverse, best.best.minimum, top, sums);
        consider(sums[0]);
        if (best.error == before) break;
    }
    return best.best;
}

float assign_codes(const float* weights, const float* importance, int n, float scale, float minimum,
                   int least, int most, float* codes) {
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    const Lanes low = spread(static_cast<float>(least)), high = spread(static_cast<float>(most));
    Lanes error{};
    for (int i = 0; i < n; i += 4) {
        const Lanes x = load_lanes(weights + i);
        const Lanes l = round_lanes(lane_min(lane_max((x - minimum) * inverse, low), high));
        const Lanes difference = (l * scale + minimum) - x;
        error += load_lanes(importance + i) * difference * difference;
        std::memcpy(codes + i, &l, sizeof l);
    }
    return sum_lanes(error);
}

}  // namespace thimble
