// SPDX-License-Identifier: Apache-2.0
#include "quant/tensor_error.h"

#include <algorithm>
#include <cmath>

namespace thimble {

template <class Real>
static void add_pairs(std::span<const Real> weights, std::span<const Real> stored,
                      TensorError& sums) noexcept {
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const double w = static_cast<double>(weights[i]), s = static_cast<double>(stored[i]);
        const double difference = s - w;
        sums.error += difference * difference;
        sums.norm += w * w;
        sums.stored_norm += s * s;
        sums.product += w * s;
        sums.greatest = std::max(sums.greatest, std::abs(difference));
    }
    sums.count += weights.size();
}

void TensorError::compare(std::span<const float> weights, std::span<const float> stored) noexcept {
    add_pairs(weights, stored, *this);
}

void TensorError::compare(std::span<const double> weights,
                          std::span<const double> stored) noexcept {
    add_pairs(weights, stored, *this);
}

void TensorError::add(const TensorError& other) noexcept {
    error += other.error;
    norm += other.norm;
    stored_norm += other.stored_norm;
    product += other.product;
    greatest = std::max(greatest, other.greatest);
    count += other.count;
}

double TensorError::relative_rmse() const noexcept {
    return error > 0 ? std::sqrt(error / norm) : 0;
}

double TensorError::rmse() const noexcept {
    return count > 0 ? std::sqrt(error / static_cast<double>(count)) : 0;
}

double TensorError::cosine() const noexcept {
    if (norm > 0 && stored_norm > 0) return product / std::sqrt(norm * stored_norm);
    return norm == stored_norm ? 1 : 0;
}

void TensorError::describe(Json& object) const {
    object.set("relative_rmse", relative_rmse());
    object.set("rmse", rmse());
    object.set("max_abs", greatest);
    object.set("cosine", cosine());
    object.set("snr_db", error > 0 ? Json(10 * std::log10(norm / error)) : Json());
}

}  // namespace thimble
