// SPDX-License-Identifier: Apache-2.0
// The encoder that q3_k and iq4_xs share: 256 weights in groups, w ~ d * scale * value with one
// half-precision d, a signed 6-bit scale per group and values of a grid. A grid supplies
//   static constexpr int kGroup;                                        weights per group
//   static float search(const float* weights, const float* importance);   best scale of a group
//   static float assign(weights, importance, float scale, float* values); values, squared error
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "format/lanes.h"
#include "format/search.h"
#include "kernels/layout/half.h"

namespace thimble {

template <class Grid>
class KScaled {
  public:
    static constexpr int kGroup = Grid::kGroup, kGroups = 256 / kGroup;

    std::uint16_t d = 0;  // a half
    int scale[kGroups];   // -32..31
    float values[256];

    // importance: null or one value per weight.
    void encode(const float* weights, const float* importance) {
        float w[256], wanted[kGroups], curvature[kGroups];
        importance_or_ones(importance, w, 256);
        for (int g = 0; g < kGroups; ++g) {
            const int at = g * kGroup;
            wanted[g] = Grid::search(weights + at, w + at);
            if (!std::isfinite(wanted[g])) return refuse();
            (void)Grid::assign(weights + at, w + at, wanted[g], values + at);
            curvature[g] = sums(weights, w, g).qq;
        }
        d = f32_to_f16(search_scale(wanted, curvature, kGroups, {32, 31}));
        for (int pass = 0; pass < kPasses; ++pass) {
            const float unit = f16_to_f32(d);
            for (int g = 0; g < kGroups; ++g) {
                const float about = pass == 0 ? wanted[g] : sums(weights, w, g).best();
                choose(weights, w, g, unit, about);
            }
            if (pass + 1 < kPasses) d = f32_to_f16(refit(weights, w, unit));
        }
    }

  private:
    static constexpr int kPasses = 3;

    // Weights too large for any scale: a d that the format's check finds.
    void refuse() {
        d = 0x7c00;
        std::fill(scale, scale + kGroups, 0);
        std::fill(values, values + 256, 0.0f);
    }

    // What the values chosen make of a group's error as a function of its scale.
    struct Sums {
        float qx, qq;
        [[nodiscard]] float best() const { return qq > 0 ? qx / qq : 0; }
    };
    [[nodiscard]] Sums sums(const float* weights, const float* w, int g) const {
        Lanes qx{}, qq{};
        for (int i = g * kGroup; i < (g + 1) * kGroup; i += 4) {
            const Lanes q = load_lanes(values + i), wq = load_lanes(w + i) * q;
            qx += wq * load_lanes(weights + i);
            qq += wq * q;
        }
        return {sum_lanes(qx), sum_lanes(qq)};
    }

    // The best of the three scales nearest to the wanted one, and its values.
    void choose(const float* weights, const float* w, int g, float unit, float wanted) {
        const int at = g * kGroup;
        // In this order of arguments NaN, from weights too large, becomes a number.
        const float steps = std::min(31.0f, std::max(-32.0f, unit != 0 ? wanted / unit : 0.0f));
        const int middle = static_cast<int>(round_even(steps));
        const int first = std::max(middle - 1, -32), last = std::min(middle + 1, 31);
        float least = 0, trial[kGroup];
        for (int s = first; s <= last; ++s) {
            const float error =
                Grid::assign(weights + at, w + at, unit * static_cast<float>(s), trial);
            if (s != first && !(error < least)) continue;
            least = error;
            scale[g] = s;
            std::copy(trial, trial + kGroup, values + at);
        }
    }

    // Least-squares d for the scales and values chosen.
    [[nodiscard]] float refit(const float* weights, const float* w, float unit) const {
        double xx = 0, xq = 0;
        for (int g = 0; g < kGroups; ++g) {
            const Sums s = sums(weights, w, g);
            const double l = scale[g];
            xq += l * static_cast<double>(s.qx);
            xx += l * l * static_cast<double>(s.qq);
        }
        return xx > 0 ? static_cast<float>(xq / xx) : unit;
    }
};

}  // namespace thimble
