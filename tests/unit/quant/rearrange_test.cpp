// SPDX-License-Identifier: Apache-2.0
#include "quant/rearrange.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "kernels/layout/rng.h"

using namespace thimble;

TEST_CASE("rearrange: an order is a bijection inside each group, keys ascend, ties keep places") {
    for (const std::int64_t group : {1, 2, 8, 24, 96}) {
        CAPTURE(group);
        std::vector<double> keys(96);
        for (std::size_t i = 0; i < keys.size(); ++i)
            keys[i] = static_cast<double>(philox(50, i).v[0] % 7);  // many alike
        std::vector<std::int32_t> order(keys.size(), -1);
        sort_channels(keys, group, order);
        for (std::int64_t first = 0; first < 96; first += group) {
            std::set<std::int32_t> seen;
            for (std::int64_t i = first; i < first + group; ++i) {
                const std::int32_t now = order[static_cast<std::size_t>(i)];
                CHECK(now >= first);
                CHECK(now < first + group);
                CHECK(seen.insert(now).second);
                if (i == first) continue;
                const std::int32_t before = order[static_cast<std::size_t>(i - 1)];
                const double a = keys[static_cast<std::size_t>(before)];
                const double b = keys[static_cast<std::size_t>(now)];
                CHECK((a < b || (a == b && before < now)));
            }
        }
    }
}

TEST_CASE("rearrange: heads that share values add their keys and take one order") {
    constexpr std::int64_t kHeads = 6, kKvHeads = 2, kDim = 5;
    std::vector<double> keys(kHeads * kDim);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = std::pow(2.0, static_cast<double>(i));
    const std::vector<double> all = keys;
    add_shared_heads(keys, kHeads, kKvHeads, kDim);
    for (std::int64_t k = 0; k < kKvHeads; ++k) {
        for (std::int64_t i = 0; i < kDim; ++i) {
            double sum = 0;
            for (std::int64_t h = 0; h < kHeads; ++h)
                if (h / 3 == k) sum += all[static_cast<std::size_t>(h * kDim + i)];
            CHECK(keys[static_cast<std::size_t>(k * kDim + i)] == sum);
        }
    }
    const std::vector<std::int32_t> of_values = {3, 0, 4, 1, 2, 5, 9, 7, 6, 8};
    std::vector<std::int32_t> order(kHeads * kDim);
    spread_order(of_values, kHeads, kKvHeads, kDim, order);
    for (std::int64_t h = 0; h < kHeads; ++h) {
        for (std::int64_t i = 0; i < kDim; ++i) {
            const std::int64_t in_head =
                of_values[static_cast<std::size_t>(h / 3 * kDim + i)] % kDim;
            CHECK(order[static_cast<std::size_t>(h * kDim + i)] == h * kDim + in_head);
        }
    }
}
