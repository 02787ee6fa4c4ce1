// SPDX-License-Identifier: Apache-2.0
// What iq4_nl and iq4_xs share: weight ~ scale * value, value one of the sixteen of Iq4.
#pragma once

#include "kernels/encode/search.h"
#include "kernels/layout/iq4.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// The value that each lane is nearest to: a step up at every midpoint passed.
THIMBLE_LANE Lanes nearest_iq4(Lanes v) {
    Lanes nearest = spread(static_cast<float>(Iq4::value(0)));
    for (int code = 1; code < 16; ++code) {
        const int below = Iq4::value(code - 1), above = Iq4::value(code);
        const Lanes middle = spread(0.5f * static_cast<float>(below + above));
        const Lanes step = spread(static_cast<float>(above - below));
        nearest = nearest + from_bits(greater(v, middle) & bits(step));
    }
    return nearest;
}

struct Iq4Grid {
    static constexpr int kGroup = 32;

    // The scale, of either sign, with the least weighted squared error; 0 when all are zero. Eight
    // rungs put the peak near one end of the table, eight near the other.
    THIMBLE_LANE float search(const float* weights, const float* importance) {
        const Extremes e = extremes(weights, kGroup);
        const float peak = -e.least > e.most ? e.least : e.most;
        if (!(peak > kTiny || peak < -kTiny)) return 0;
        const Lanes which = counted();
        const IntLanes second = greater(which, spread(7.5f));
        const Lanes rung = which - select(second, spread(8), spread(0));
        const Lanes end = select(second, spread(static_cast<float>(Iq4::value(15))),
                                 spread(static_cast<float>(Iq4::value(0))));
        Lanes inverse = (spread(0.82f) + spread(0.07f) * rung) * end / spread(peak);
        Lanes scale = spread(0), score = scale;
        constexpr int kPasses = 2;
        for (int pass = 0; pass < kPasses; ++pass) {
            Lanes qx = spread(0), qq = qx;
            for (int i = 0; i < kGroup; ++i) {
                const Lanes x = spread(weights[i]);
                const Lanes q = nearest_iq4(x * inverse), wq = spread(importance[i]) * q;
                qx = qx + wq * x;
                qq = qq + wq * q;
            }
            const IntLanes valid = greater(qq, spread(0)) & greater(magnitude(qx), spread(0));
            scale = select(valid, qx / qq, spread(0));
            score = select(valid, scale * qx, spread(-1));
            inverse = select(valid, qq / qx, spread(0));
        }
        return lane_of(scale, best_lane(score));
    }

    // What sixteen candidate scales leave of a group.
    THIMBLE_LANE Lanes errors(const float* weights, const float* importance, Lanes scale) {
        const IntLanes whole = greater(magnitude(scale), spread(0));
        const Lanes inverse = select(whole, spread(1) / scale, spread(0));
        Lanes error = spread(0);
        for (int i = 0; i < kGroup; ++i) {
            const Lanes x = spread(weights[i]);
            const Lanes difference = nearest_iq4(x * inverse) * scale - x;
            error = error + spread(importance[i]) * difference * difference;
        }
        return error;
    }

    THIMBLE_LANE void nearest(const float* weights, float scale, float* values) {
        const Lanes inverse = spread(scale != 0 ? 1.0f / scale : 0.0f);
        for (int i = 0; i < kGroup; i += kLanes)
            store(values + i, nearest_iq4(load(weights + i) * inverse));
    }
};

// Codes of values that `nearest` gave.
THIMBLE_LANE void iq4_codes(const float* values, std::uint8_t* codes) {
    for (int i = 0; i < Iq4Grid::kGroup; i += kLanes) {
        const Lanes value = load(values + i);
        Lanes code = spread(0);
        for (int k = 0; k < 15; ++k) {
            const IntLanes above = greater(value, spread(static_cast<float>(Iq4::value(k))));
            code = code + from_bits(above & bits(spread(1)));
        }
        store_bytes(codes + i, truncate(code));
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
