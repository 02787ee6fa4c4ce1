// SPDX-License-Identifier: Apache-2.0
#include "quant/smooth.h"

#include <algorithm>
#include <cmath>

#include "kernels/layout/half.h"

namespace thimble {
namespace {

constexpr double kLeast = 1e-5;

double as_stored(LayoutId layout, double value) {
    if (layout == LayoutId::k_f64) return value;
    const auto narrow = static_cast<float>(value);
    if (layout == LayoutId::k_f16) return static_cast<double>(f16_to_f32(f32_to_f16(narrow)));
    if (layout == LayoutId::k_bf16) return static_cast<double>(bf16_to_f32(f32_to_bf16(narrow)));
    return static_cast<double>(narrow);
}

}  // namespace

double smoothing_scale(double activation, double weight, double alpha) {
    return std::max(std::pow(activation, alpha) / std::pow(std::max(weight, kLeast), 1 - alpha),
                    kLeast);
}

void divide_norm(NormForm form, std::span<double> norm, std::span<double> scale) {
    const double offset = form.difference ? 1 : 0;
    for (std::size_t j = 0; j < norm.size(); ++j) {
        const double whole = norm[j];
        if (whole == 0) {
            norm[j] = as_stored(form.layout, -offset);
            continue;
        }
        for (const double divisor : {scale[j], 1.0}) {
            norm[j] = as_stored(form.layout, whole / divisor - offset);
            const double read = norm[j] + offset;
            const bool held = read != 0 && std::isfinite(read);
            scale[j] = held ? whole / read : 1;
            if (held) break;
        }
    }
}

}  // namespace thimble
