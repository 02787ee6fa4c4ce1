// SPDX-License-Identifier: Apache-2.0
// Double quantisation: the peaks of a matrix's groups in 8 bits each, less their mean, with a scale
// for every 256. "QLoRA: Efficient Finetuning of Quantized LLMs" (2023).
// differs: peaks of zero have no say in mean and scales; and a matrix of which this would miss a
// peak by more than an eighth (beside one outlier small ones become zero or negative) has no mean
// and a map of even ratios.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace thimble {

class NestedPeaks {
  public:
    static constexpr std::int64_t kGroup = 256;
    static constexpr float kMostMissed = 0.125f;  // of a peak, the largest 2^24 times the least

    explicit NestedPeaks(std::int64_t peaks);
    // All peaks, in order; then settle().
    void see(std::int64_t n, float peak);
    void settle();

    // Peak n is values()[code] * scale(n / kGroup) + mean().
    [[nodiscard]] std::uint8_t code(std::int64_t n, float peak) const;
    [[nodiscard]] std::span<const float> values() const;  // [256]
    [[nodiscard]] float mean() const noexcept { return mean_; }
    [[nodiscard]] std::size_t scales() const noexcept { return ranges_.size(); }
    [[nodiscard]] float scale(std::size_t i) const noexcept { return ranges_[i].scale(mean_); }

  private:
    // Of the peaks under one scale.
    struct Range {
        float least = std::numeric_limits<float>::max(), most = 0;
        [[nodiscard]] float scale(float mean) const noexcept;
    };
    [[nodiscard]] bool fits(const Range& range) const;

    std::vector<Range> ranges_;
    std::int64_t seen_ = 0;
    double sum_ = 0;
    float mean_ = 0;
    bool even_ = false;
};

// Numbers above it are nearer to b than to a, a < b.
[[nodiscard]] float middle_of(float a, float b);

}  // namespace thimble
