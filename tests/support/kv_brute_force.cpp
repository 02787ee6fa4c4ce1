// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kv_brute_force.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace thimble::test {

FullAttention::FullAttention(AttentionSpec spec, std::uint64_t seed, std::size_t layer,
                             std::int64_t tokens)
    : spec_(std::move(spec)), seed_(seed), layer_(layer), tokens_(tokens) {
    const int dim = spec_.shape.head_dim;
    const auto fill = [&](std::vector<Row>& all, KvInput what, int heads) {
        for (std::int64_t p = 0; p < tokens; ++p) {
            const Row row = kv_input(seed, layer, p, what, heads, dim);
            for (int head = 0; head < heads; ++head) {
                all.emplace_back(row.begin() + head * dim, row.begin() + (head + 1) * dim);
                if (what != KvInput::kValue)
                    rotate_in_double(spec_.rope, static_cast<double>(p), all.back().data());
            }
        }
    };
    fill(queries_, KvInput::kQuery, spec_.shape.heads);
    fill(keys_, KvInput::kKey, spec_.shape.kv_heads);
    fill(values_, KvInput::kValue, spec_.shape.kv_heads);
}

Row FullAttention::raw_query(int head, std::int64_t position) const {
    const int dim = spec_.shape.head_dim;
    const Row row = kv_input(seed_, layer_, position, KvInput::kQuery, spec_.shape.heads, dim);
    return {row.begin() + head * dim, row.begin() + (head + 1) * dim};
}

double FullAttention::logit(int head, std::int64_t row, std::int64_t key_position) const {
    const double x = spec_.scale * dot(query(head, row), key(head / group(), key_position));
    return spec_.softcap > 0 ? spec_.softcap * std::tanh(x / spec_.softcap) : x;
}

Row FullAttention::probabilities(int head, std::int64_t row) const {
    Row logits;
    for (std::int64_t j = 0; j <= row; ++j) logits.push_back(logit(head, row, j));
    return softmax(std::move(logits));
}

double dot(const Row& a, const Row& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

Row softmax(Row logits) {
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double& x : logits) sum += x = std::exp(x - top);
    for (double& x : logits) x /= sum;
    return logits;
}

std::vector<std::int32_t> best_positions(const Row& scores, std::int64_t sinks, std::int64_t recent,
                                         std::int64_t tokens, double& margin) {
    const std::int64_t n = std::ssize(scores);
    std::vector<std::int32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    const auto rank = [&](std::int32_t p) { return p >= n - recent ? 2 : p < sinks ? 1 : 0; };
    const auto score = [&](std::int32_t p) { return scores[static_cast<std::size_t>(p)]; };
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        if (rank(a) != rank(b)) return rank(a) > rank(b);
        return rank(a) == 0 ? score(a) > score(b) : a > b;
    });
    const auto count = static_cast<std::size_t>(std::min(tokens, n));
    margin = 1;
    if (count > 0 && count < order.size() && rank(order[count - 1]) == 0) {
        const double most = *std::max_element(scores.begin(), scores.end());
        margin = (score(order[count - 1]) - score(order[count])) / most;
    }
    order.resize(count);
    std::sort(order.begin(), order.end());
    return order;
}

std::vector<std::int32_t> kept_positions(KvHarness& harness, SeqId seq, int layer, int kv_head) {
    auto list = harness.engine().positions(seq, layer, kv_head);
    std::sort(list.begin(), list.end());
    return list;
}

}  // namespace thimble::test
