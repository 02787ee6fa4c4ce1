// SPDX-License-Identifier: Apache-2.0
#include "format/search.h"

#include <algorithm>

#include "kernels/encode/search.h"

namespace thimble {
namespace {

namespace lanes = encode::plain;

constexpr int kPasses = 2;

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
    return lanes::search_scale(weights, importance, n, {range.negative, range.positive},
                               lanes::kOffsets, kPasses);
}

ScaleMinimum search_scale_minimum(const float* weights, const float* importance, int n, int top,
                                  bool offset_down) {
    const lanes::ScaleMinimum fit = lanes::search_scale_minimum(
        weights, importance, n, top, offset_down, lanes::kOffsets, kPasses);
    return {fit.scale, fit.minimum};
}

float assign_codes(const float* weights, const float* importance, int n, float scale, float minimum,
                   int least, int most, float* codes) {
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    float error = 0;
    for (int i = 0; i < n; ++i) {
        const float place = (weights[i] - minimum) * inverse;
        codes[i] = lanes::round_even(
            std::clamp(place, static_cast<float>(least), static_cast<float>(most)));
        const float difference = (codes[i] * scale + minimum) - weights[i];
        error += importance[i] * difference * difference;
    }
    return error;
}

}  // namespace thimble
