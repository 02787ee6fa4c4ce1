// SPDX-License-Identifier: Apache-2.0
#include "tests/support/runs.h"

#include <algorithm>
#include <cmath>

namespace thimble::test {
namespace {

void append(std::vector<double>& out, const View& rows) {
    for (std::int64_t r = 0; r < rows.rows; ++r) {
        if (rows.dtype == DType::kF64) {
            out.insert(out.end(), rows.row<double>(r), rows.row<double>(r) + rows.cols);
        } else {
            out.insert(out.end(), rows.row<float>(r), rows.row<float>(r) + rows.cols);
        }
    }
}

}  // namespace

std::vector<double> all_logits(Runner& runner, std::span<const std::int32_t> tokens) {
    std::vector<double> out;
    const SeqId seq = runner.kv().open();
    runner.forward(seq, tokens, static_cast<std::int64_t>(tokens.size()),
                   [&](std::int64_t, View rows) { append(out, rows); });
    runner.kv().close(seq);
    return out;
}

std::vector<std::int32_t> greedy(Runner& runner, std::span<const std::int32_t> prompt,
                                 std::size_t count) {
    std::vector<std::int32_t> out, next(prompt.begin(), prompt.end());
    const SeqId seq = runner.kv().open();
    while (out.size() < count) {
        std::vector<double> row;
        runner.forward(seq, next, 1, [&](std::int64_t, View rows) { append(row, rows); });
        next = {static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin())};
        out.push_back(next[0]);
    }
    runner.kv().close(seq);
    return out;
}

double rounding_tolerance(const ModelSpec& spec, std::span<const double> row, double epsilon) {
    const auto root = [](auto n) { return std::sqrt(static_cast<double>(n)); };
    double sums = root(spec.hidden);
    for (const AttentionSpec& a : spec.attention) {
        sums += 3 * root(spec.hidden) + root(a.shape.heads * a.shape.head_dim) +
                2 * root(a.shape.head_dim) + root(spec.ffn);
    }
    double squares = 0;
    for (const double x : row) squares += x * x;
    const double size = std::sqrt(squares / static_cast<double>(row.size()));
    constexpr double kEnlarged = 2;
    return kEnlarged * epsilon * sums * size;
}

}  // namespace thimble::test
