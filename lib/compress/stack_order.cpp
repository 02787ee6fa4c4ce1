// SPDX-License-Identifier: Apache-2.0
#include "compress/stack_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/metrics.h"
#include "eval/scoring.h"
#include "model/stacked_store.h"

namespace thimble {
namespace {

// Mean over tokens of -log p, which orders as the perplexity does.
double loss(Runner& runner, std::span<const std::span<const std::int32_t>> texts) {
    double sum = 0;
    std::int64_t count = 0;
    for (const auto& text : texts) {
        const auto inputs = text.first(text.size() - 1);
        const eval::OpenSequence sequence(runner);
        runner.forward(sequence.id(), inputs, std::ssize(inputs),
                       [&](std::int64_t first, View logits) {
                           for (std::int64_t r = 0; r < logits.rows; ++r)
                               sum += eval::score_row(logits.slice_rows(r, 1),
                                                      text[static_cast<std::size_t>(first + r + 1)])
                                          .nll;
                           count += logits.rows;
                       });
    }
    return sum / static_cast<double>(count);
}

void append(std::vector<std::int32_t>& order, std::span<const double> cost) {
    const std::vector<std::int32_t> level = sorted_by_cost(cost);
    order.insert(order.end(), level.begin(), level.end());
}

}  // namespace

std::vector<std::int32_t> sorted_by_cost(std::span<const double> cost) {
    std::vector<std::int32_t> order(cost.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](std::int32_t i, std::int32_t j) {
        const double a = cost[static_cast<std::size_t>(i)], b = cost[static_cast<std::size_t>(j)];
        return std::isnan(b) ? !std::isnan(a) : a < b;
    });
    return order;
}

std::vector<std::int32_t> order_by_layers(std::size_t matrices, std::int64_t levels) {
    std::vector<std::int32_t> order;
    for (std::int64_t level = 0; level < levels; ++level)
        for (std::size_t i = 0; i < matrices; ++i) order.push_back(static_cast<std::int32_t>(i));
    return order;
}

std::optional<std::vector<std::int32_t>> order_by_perplexity(
    Runner& runner, std::span<const std::span<const std::int32_t>> texts,
    const OrderProgress& progress) {
    StackedStore& store = *runner.stacked();
    const auto& linears = store.order().linears;
    const std::int64_t levels = stacked_of(*linears.front())->levels();
    const std::int64_t total = (levels - 1) * std::ssize(linears);
    std::vector<double> cost(linears.size());
    std::vector<std::int32_t> order(linears.size());
    std::iota(order.begin(), order.end(), 0);  // the first ones are always there
    for (std::int64_t level = 1; level < levels; ++level) {
        for (std::size_t i = 0; i < linears.size(); ++i) store.limit(i, level);
        for (std::size_t i = 0; i < linears.size(); ++i) {
            const std::int64_t done =
                (level - 1) * std::ssize(linears) + static_cast<std::int64_t>(i);
            if (!progress(done, total)) return std::nullopt;
            store.limit(i, level + 1);
            cost[i] = loss(runner, texts);
            store.limit(i, level);
        }
        append(order, cost);
    }
    return order;
}

}  // namespace thimble
