// SPDX-License-Identifier: Apache-2.0
#include "format/ternary.h"

#include <algorithm>
#include <cmath>

#include "kernels/encode/search.h"
#include "kernels/layout/half.h"

namespace thimble {

// Whatever d is, the weights that are not zeroed are those of magnitude d / 2 or more: the largest
// k for some k. For given k the best d is their weighted mean magnitude, and what it takes off the
// error is (sum of w |x|)^2 / (sum of w); so one pass over the sorted magnitudes finds the best k.
void encode_ternary(const float* weights, const float* importance, TernaryBlock& out) {
    constexpr int kWeights = 256;
    float w[kWeights];
    encode::plain::importance_or_ones(importance, w, kWeights);
    struct Magnitude {
        float value, importance;
    } sorted[kWeights];
    for (int i = 0; i < kWeights; ++i) sorted[i] = {std::fabs(weights[i]), w[i]};
    std::sort(sorted, sorted + kWeights, [](const Magnitude& a, const Magnitude& b) {
        return a.value != b.value ? a.value > b.value : a.importance > b.importance;
    });
    double total = 0, sum = 0, gain = 0, d = 0;
    for (const Magnitude& m : sorted) {
        total += static_cast<double>(m.importance);
        sum += static_cast<double>(m.importance) * static_cast<double>(m.value);
        if (total > 0 && sum * sum > gain * total) {
            gain = sum * sum / total;
            d = sum / total;
        }
    }
    out.d = f32_to_f16(static_cast<float>(d));
    const float half = 0.5f * f16_to_f32(out.d);
    for (int i = 0; i < kWeights; ++i) {
        const int code = half > 0 ? (weights[i] >= half) - (weights[i] <= -half) : 0;
        out.digits[i] = static_cast<std::uint8_t>(code + 1);
    }
}

}  // namespace thimble
