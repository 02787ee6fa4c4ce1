// SPDX-License-Identifier: Apache-2.0
// Running mean and spread of one quantity (Welford's update), with the standard error of the mean.
// Added in a fixed order, so equal inputs give equal bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace thimble::eval {

struct Estimate {
    double value = 0;
    double standard_error = 0;
};

class Moments {
  public:
    void add(double x) noexcept {
        ++count_;
        const double delta = x - mean_;
        mean_ += delta / static_cast<double>(count_);
        squares_ += delta * (x - mean_);
    }
    [[nodiscard]] std::int64_t count() const noexcept { return count_; }
    [[nodiscard]] double mean() const noexcept { return mean_; }
    // Variance of the mean: unbiased sample variance / count; 0 below two samples.
    [[nodiscard]] double variance_of_mean() const noexcept {
        if (count_ < 2) return 0;
        const auto n = static_cast<double>(count_);
        return squares_ / (n - 1) / n;
    }
    [[nodiscard]] Estimate estimate() const noexcept {
        return {mean_, std::sqrt(variance_of_mean())};
    }

  private:
    std::int64_t count_ = 0;
    double mean_ = 0, squares_ = 0;
};

// The same of numbers that are all at hand: a mean of zeros and ones is their exact fraction.
[[nodiscard]] inline Estimate estimate_of(std::span<const double> values) noexcept {
    if (values.empty()) return {};
    const auto n = static_cast<double>(values.size());
    double sum = 0, squares = 0;
    for (const double value : values) sum += value;
    const double mean = sum / n;
    for (const double value : values) squares += (value - mean) * (value - mean);
    return {mean, values.size() < 2 ? 0 : std::sqrt(squares / (n - 1) / n)};
}

}  // namespace thimble::eval
