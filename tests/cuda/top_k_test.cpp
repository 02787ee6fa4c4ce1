// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "harness.h"

namespace thimble::cuda_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Values, then places.
void check_top(const std::vector<float>& x, std::int64_t k) {
    const auto cols = std::ssize(x);
    CAPTURE(cols);
    CAPTURE(k);
    const auto n = static_cast<std::size_t>(k);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x), values(n);
        const Array<std::int32_t> places(n);
        const Array<std::uint64_t> scratch(static_cast<std::size_t>(cuda::top_k_scratch(cols, k)));
        cuda::top_k({dx.data(), cols, k, scratch.data(), values.data(), places.data()}, stream());
        std::vector<float> out = values.get();
        for (const std::int32_t p : places.get()) out.push_back(static_cast<float>(p));
        return out;
    });
    // A stable sort in which NaN is as large as infinity.
    const auto size = [&](std::size_t i) { return x[i] < kInfinity ? x[i] : kInfinity; };
    std::vector<std::size_t> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return size(a) > size(b); });
    for (std::size_t i = 0; i < n; ++i) {
        CAPTURE(i);
        REQUIRE(got[n + i] == static_cast<float>(order[i]));
        const float want = x[order[i]];
        REQUIRE((std::isnan(want) ? std::isnan(got[i]) : got[i] == want));
    }
}

}  // namespace

void check_top_k() {
    check_top({-3.5f}, 1);
    for (const std::size_t cols : {40U, 255U, 2047U, 2048U, 2049U, 6000U}) {
        const std::vector<float> x = values(cols, 9, 4);
        for (const std::int64_t k : {1, 40}) check_top(x, k);
    }
    check_top(values(20000, 10), 256);  // through three stages

    // Equal ones far apart, zeros of both signs, what is not a number.
    std::vector<float> few(5000);
    for (std::size_t i = 0; i < few.size(); ++i) few[i] = static_cast<float>(i * 7919 % 13) - 6;
    for (std::size_t i = 0; i < few.size(); i += 3) few[i] = -few[i];
    check_top(few, 256);
    std::vector<float> zeros(100, -1);
    for (std::size_t i = 0; i < zeros.size(); i += 3) zeros[i] = i % 2 == 0 ? -0.0f : 0.0f;
    check_top(zeros, 20);
    few[4100] = kInfinity, few[17] = kNan, few[3000] = -kNan, few[1] = -kInfinity;
    check_top(few, 40);
    std::vector<float> none(300, -kInfinity);
    none[290] = -std::numeric_limits<float>::max();
    check_top(none, 64);

    CHECK_FALSE(cuda::supports_top_k({.x = nullptr,
                                      .cols = 5,
                                      .k = 6,
                                      .scratch = nullptr,
                                      .values = nullptr,
                                      .places = nullptr}));
    CHECK_FALSE(cuda::supports_top_k({.x = nullptr,
                                      .cols = 500,
                                      .k = 257,
                                      .scratch = nullptr,
                                      .values = nullptr,
                                      .places = nullptr}));
}

}  // namespace thimble::cuda_test
