// SPDX-License-Identifier: Apache-2.0
// Medians and leasts of repeated timings.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace thimble::cost {

[[nodiscard]] inline double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t n = values.size();
    return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

template <class Fn>
[[nodiscard]] double seconds_of(Fn&& fn) {
    const auto start = std::chrono::steady_clock::now();
    fn();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Fn>
[[nodiscard]] double median_seconds(std::int64_t repeats, Fn&& fn) {
    std::vector<double> seconds;
    for (std::int64_t r = 0; r < repeats; ++r) seconds.push_back(seconds_of(fn));
    return median(std::move(seconds));
}

// Of one call, the least of several runs of many: what disturbs only adds to it.
template <class Fn>
[[nodiscard]] double least_seconds(Fn&& fn) {
    constexpr double kRunSeconds = 3e-4;
    constexpr int kRuns = 9;
    fn();
    std::int64_t calls = 1;
    const auto run = [&] {
        for (std::int64_t i = 0; i < calls; ++i) fn();
    };
    double least = seconds_of(run);
    for (; least < kRunSeconds; least = seconds_of(run)) calls *= 2;
    for (int i = 0; i < kRuns; ++i) least = std::min(least, seconds_of(run));
    return least / static_cast<double>(calls);
}

}  // namespace thimble::cost
