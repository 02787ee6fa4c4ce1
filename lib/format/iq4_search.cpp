// SPDX-License-Identifier: Apache-2.0
#include "format/iq4_search.h"

#include <algorithm>
#include <cmath>

#include "format/lanes.h"
#include "kernels/layout/iq4.h"

namespace thimble {
namespace {

constexpr int kGroup = 32;
constexpr float kTiny = 1e-20f;

// The value that each lane is nearest to: a step up at every midpoint passed.
Lanes nearest_value(Lanes v) {
    Lanes nearest = spread(static_cast<float>(Iq4::value(0)));
    for (int code = 1; code < 16; ++code) {
        const int below = Iq4::value(code - 1), above = Iq4::value(code);
        const Lanes middle = spread(0.5f * static_cast<float>(below + above));
        nearest += v > middle ? spread(static_cast<float>(above - below)) : Lanes{};
    }
    return nearest;
}

// The least-squares scale for the values that 1 / scale = inverse gives, if it beats the best.
struct Search {
    const float *weights, *importance;
    double score = -1;
    float best = 0;

    void consider(float inverse) {
        Lanes qx{}, qq{};
        for (int i = 0; i < kGroup; i += 4) {
            const Lanes x = load_lanes(weights + i);
            const Lanes q = nearest_value(x * inverse);
            const Lanes wq = load_lanes(importance + i) * q;
            qx += wq * x;
            qq += wq * q;
        }
        if (!(sum_lanes(qq) > 0)) return;
        const double sum = static_cast<double>(sum_lanes(qx));
        const double scale = sum / static_cast<double>(sum_lanes(qq));
        if (scale * sum > score && scale != 0) {
            score = scale * sum;
            best = static_cast<float>(scale);
        }
    }
};

}  // namespace

float search_iq4_scale(const float* weights, const float* importance) {
    float peak = 0;
    for (int i = 0; i < kGroup; ++i)
        peak = std::fabs(weights[i]) > std::fabs(peak) ? weights[i] : peak;
    if (!(std::fabs(peak) > kTiny)) return 0;
    Search search{weights, importance};
    // The peak lands near one end of the table or near the other.
    constexpr int kRungs = 8;
    for (int rung = 0; rung < kRungs; ++rung) {
        const float reach = 0.86f + 0.04f * static_cast<float>(rung);
        search.consider(reach * static_cast<float>(Iq4::value(0)) / peak);
        search.consider(reach * static_cast<float>(Iq4::value(15)) / peak);
    }
    for (int pass = 0; pass < 2 && search.best != 0; ++pass) search.consider(1.0f / search.best);
    return search.best;
}

float assign_iq4(const float* weights, const float* importance, float scale, float* values) {
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    Lanes error{};
    for (int i = 0; i < kGroup; i += 4) {
        const Lanes x = load_lanes(weights + i);
        const Lanes q = nearest_value(x * inverse);
        const Lanes difference = q * scale - x;
        error += load_lanes(importance + i) * difference * difference;
        std::memcpy(values + i, &q, sizeof q);
    }
    return sum_lanes(error);
}

void iq4_codes(const float* values, std::uint8_t (&codes)[32]) {
    for (int i = 0; i < kGroup; ++i) {
        int code = 0;
        while (code < 15 && static_cast<float>(Iq4::value(code)) < values[i]) ++code;
        codes[i] = static_cast<std::uint8_t>(code);
    }
}

}  // namespace thimble
