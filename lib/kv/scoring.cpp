// SPDX-License-Identifier: Apache-2.0
#include "kv/scoring.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace thimble {

void add_probabilities(const Exec& exec, View logits, std::int64_t group, std::span<float> sums) {
    ops::softmax_rows(exec, logits, {});
    const auto share = 1.0f / static_cast<float>(group);
    constexpr std::int64_t kColumns = 1024;
    const std::int64_t n = logits.cols;
    // Rows are added one by one, so chunks of a prompt change no bit.
    exec.team->run((n + kColumns - 1) / kColumns, 1, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t first = begin * kColumns, last = std::min(n, end * kColumns);
        for (std::int64_t r = 0; r < logits.rows; ++r) {
            const float* p = logits.row<float>(r);
            for (std::int64_t i = first; i < last; ++i)
                sums[static_cast<std::size_t>(i)] += share * p[i];
        }
    });
}

void score_by_sums(const KvLayerView& view, KvScores& scores) {
    for (int head = 0; head < view.shape().kv_heads; ++head) {
        const auto sums = view.sums(head);
        scores.heads[static_cast<std::size_t>(head)].assign(sums.begin(), sums.end());
    }
}

std::vector<std::int32_t> by_position(std::span<const std::int32_t> positions) {
    std::vector<std::int32_t> order(positions.size());
    std::iota(order.begin(), order.end(), 0);
    if (!std::is_sorted(positions.begin(), positions.end())) {
        std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
            return positions[static_cast<std::size_t>(a)] < positions[static_cast<std::size_t>(b)];
        });
    }
    return order;
}

void pool(std::span<float> values, std::int64_t width, Pooling how,
          std::pmr::memory_resource& memory) {
    if (width <= 1) return;
    const std::pmr::vector<float> from(values.begin(), values.end(), &memory);
    const std::int64_t n = std::ssize(values), half = width / 2;
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t first = std::max<std::int64_t>(i - half, 0);
        const std::int64_t last = std::min(i + half, n - 1);
        const auto begin = from.begin() + first, end = from.begin() + last + 1;
        values[static_cast<std::size_t>(i)] =
            how == Pooling::kMax ? *std::max_element(begin, end)
                                 : std::accumulate(begin, end, 0.0f) / static_cast<float>(width);
    }
}

void WindowScoring::visit(OptionVisitor& v) {
    v.option({.name = "window",
              .help = "last tokens of the prompt, whose queries score; always kept",
              .least = 1,
              .most = 4096},
             window);
    v.option({.name = "kernel",
              .help = "neighbouring tokens whose scores are pooled, an odd number",
              .least = 1,
              .most = 1023},
             kernel);
    v.option({.name = "pooling", .help = "how scores are pooled", .choices = {"mean", "max"}},
             pooling);
}

void WindowScoring::check(std::string_view policy, std::string_view where) const {
    if (kernel % 2 == 1) return;
    throw Error(Exit::kUsage, std::string(where), std::string(policy) + ": kernel must be odd");
}

void visit_kv_budget(OptionVisitor& v, std::string& budget) {
    v.option({.name = "budget",
              .help = "kept of a head and layer: tokens, 25% of those seen, or 64MiB in all",
              .value = "SIZE"},
             budget);
}

void for_window_heads(const KvLayerView& view, int kv_head, std::int64_t rows,
                      std::int64_t pool_width, Pooling how, const WindowHead& fn) {
    const std::int64_t group = view.shape().heads / view.shape().kv_heads;
    const auto positions = view.positions(kv_head);
    std::pmr::vector<float> memory(&view.memory());
    const View logits = view.window_logits(kv_head, rows, memory);
    const std::int64_t window = logits.rows / group;
    ops::softmax_rows(view.exec(), logits, {});
    std::vector<std::int32_t> order = by_position(positions);
    std::erase_if(order, [&](std::int32_t slot) {
        return positions[static_cast<std::size_t>(slot)] >= view.seen() - window;
    });
    std::pmr::vector<float> sums(order.size(), &view.memory());
    for (std::int64_t g = 0; g < group; ++g) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (std::int64_t r = g; r < logits.rows; r += group) {
            const float* p = logits.row<float>(r);
            for (std::size_t i = 0; i < order.size(); ++i) sums[i] += p[order[i]];
        }
        pool(sums, pool_width, how, view.memory());
        fn(g, order, sums);
    }
}

void score_by_window(const KvLayerView& view, const WindowScoring& options, KvScores& scores) {
    const int heads_of_group = view.shape().heads / view.shape().kv_heads;
    const auto group = static_cast<float>(heads_of_group);
    for (int head = 0; head < view.shape().kv_heads; ++head) {
        auto& out = scores.heads[static_cast<std::size_t>(head)];
        for_window_heads(
            view, head, options.window, options.kernel, options.how(),
            [&](std::int64_t, std::span<const std::int32_t> order, std::span<const float> sums) {
                for (std::size_t i = 0; i < order.size(); ++i)
                    out[static_cast<std::size_t>(order[i])] += sums[i] / group;
            });
    }
}

}  // namespace thimble
