// SPDX-License-Identifier: Apache-2.0
#include "format/nested_peaks.h"

#include <algorithm>
#include <cmath>

#include "format/dynamic_values.h"

namespace thimble {
namespace {

struct Map {
    std::array<float, 256> values{};
    std::array<float, 255> middles{};

    explicit Map(const std::vector<double>& of) {
        std::transform(of.begin(), of.end(), values.begin(),
                       [](double v) { return static_cast<float>(v); });
        for (std::size_t i = 0; i < middles.size(); ++i)
            middles[i] = middle_of(values[i], values[i + 1]);
    }
    // Of the nearest value, the lower one of two.
    [[nodiscard]] std::uint8_t code(float x) const {
        return static_cast<std::uint8_t>(std::lower_bound(middles.begin(), middles.end(), x) -
                                         middles.begin());
    }
};

// Zero, and 2^-24 to 1.
std::vector<double> even_values() {
    std::vector<double> values = {0};
    for (int i = 0; i < 255; ++i) values.push_back(std::exp2(24.0 * (i - 254) / 254));
    return values;
}

const Map& map_of(bool even) {
    static const Map published(signed_dynamic_values()), ratios(even_values());
    return even ? ratios : published;
}

}  // namespace

float middle_of(float a, float b) {
    const double middle = 0.5 * (static_cast<double>(a) + static_cast<double>(b));
    const auto near = static_cast<float>(middle);
    return static_cast<double>(near) > middle ? std::nextafter(near, a) : near;
}

float NestedPeaks::Range::scale(float mean) const noexcept {
    return most == 0 ? 0 : std::max(most - mean, mean - least);
}

NestedPeaks::NestedPeaks(std::int64_t peaks)
    : ranges_(static_cast<std::size_t>((peaks + kGroup - 1) / kGroup)) {}

void NestedPeaks::see(std::int64_t n, float peak) {
    if (peak == 0) return;
    Range& range = ranges_[static_cast<std::size_t>(n / kGroup)];
    range.least = std::min(range.least, peak);
    range.most = std::max(range.most, peak);
    sum_ += static_cast<double>(peak);
    ++seen_;
}

void NestedPeaks::settle() {
    if (seen_ > 0) mean_ = static_cast<float>(sum_ / static_cast<double>(seen_));
    even_ = !std::all_of(ranges_.begin(), ranges_.end(), [&](const Range& r) { return fits(r); });
    if (even_) mean_ = 0;
}

// Whether no peak in the range can be missed by more than kMostMissed of it, with the mean and the
// published map.
bool NestedPeaks::fits(const Range& range) const {
    const Map& map = map_of(false);
    const float scale = range.scale(mean_);
    if (scale == 0) return true;
    if (!std::isfinite(map.values.back() * scale + mean_)) return false;
    const std::size_t last = map.code((range.most - mean_) / scale);
    for (std::size_t c = map.code((range.least - mean_) / scale); c <= last; ++c) {
        const float below = c > 0 ? map.middles[c - 1] : -1, above = c < 255 ? map.middles[c] : 1;
        const float missed = std::max(map.values[c] - below, above - map.values[c]) * scale;
        if (missed > kMostMissed * std::max(range.least, below * scale + mean_)) return false;
    }
    return true;
}

std::uint8_t NestedPeaks::code(std::int64_t n, float peak) const {
    const float s = scale(static_cast<std::size_t>(n / kGroup));
    return map_of(even_).code(s == 0 ? 0 : (peak - mean_) / s);
}

std::span<const float> NestedPeaks::values() const { return map_of(even_).values; }

}  // namespace thimble
