// SPDX-License-Identifier: Apache-2.0
// How far a tensor's stored weights are from the weights they stand for: sums that pieces of the
// tensor add up to, and the measures people know.
#pragma once

#include <cstdint>
#include <span>

#include "io/json.h"

namespace thimble {

struct TensorError {
    double error = 0;         // sum (w - w')^2
    double norm = 0;          // sum w^2
    double stored_norm = 0;   // sum w'^2
    double product = 0;       // sum w w'
    double greatest = 0;      // max |w - w'|
    std::uint64_t count = 0;  // weights compared

    void compare(std::span<const float> weights, std::span<const float> stored) noexcept;
    void compare(std::span<const double> weights, std::span<const double> stored) noexcept;
    void add(const TensorError& other) noexcept;

    [[nodiscard]] double relative_rmse() const noexcept;  // sqrt(error / norm), 0 without error
    [[nodiscard]] double rmse() const noexcept;
    [[nodiscard]] double cosine() const noexcept;  // 1 when both are zero everywhere
    // Sets "relative_rmse", "rmse", "max_abs", "cosine" and "snr_db" (null without error).
    void describe(Json& object) const;
};

}  // namespace thimble
