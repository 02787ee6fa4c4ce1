// SPDX-License-Identifier: Apache-2.0
#include "quant/rearrange.h"

#include <algorithm>
#include <numeric>

namespace thimble {

void sort_channels(std::span<const double> keys, std::int64_t group,
                   std::span<std::int32_t> order) {
    std::iota(order.begin(), order.end(), 0);
    const auto by_key = [&](std::int32_t a, std::int32_t b) {
        const double x = keys[static_cast<std::size_t>(a)], y = keys[static_cast<std::size_t>(b)];
        return x != y ? x < y : a < b;
    };
    for (auto first = order.begin(); first != order.end(); first += group)
        std::sort(first, first + group, by_key);
}

void add_shared_heads(std::span<double> keys, std::int64_t heads, std::int64_t kv_heads,
                      std::int64_t head_dim) {
    const std::int64_t shared = heads / kv_heads;
    const auto at = [&](std::int64_t head, std::int64_t i) -> double& {
        return keys[static_cast<std::size_t>(head * head_dim + i)];
    };
    for (std::int64_t k = 0; k < kv_heads; ++k) {
        for (std::int64_t i = 0; i < head_dim; ++i) {
            double sum = 0;
            for (std::int64_t h = k * shared; h < (k + 1) * shared; ++h) sum += at(h, i);
            at(k, i) = sum;  // read before: k <= k * shared
        }
    }
}

void spread_order(std::span<const std::int32_t> of_values, std::int64_t heads,
                  std::int64_t kv_heads, std::int64_t head_dim, std::span<std::int32_t> order) {
    const std::int64_t shared = heads / kv_heads;
    for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t k = h / shared;
        for (std::int64_t i = 0; i < head_dim; ++i) {
            const std::int64_t from = of_values[static_cast<std::size_t>(k * head_dim + i)];
            order[static_cast<std::size_t>(h * head_dim + i)] =
                static_cast<std::int32_t>(from + (h - k) * head_dim);
        }
    }
}

}  // namespace thimble
