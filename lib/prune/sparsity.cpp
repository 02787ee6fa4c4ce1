// SPDX-License-Identifier: Apache-2.0
#include "prune/sparsity.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"

namespace thimble::prune {

void SparsityOptions::visit(OptionVisitor& v) {
    v.option({.name = "sparsity",
              .help = "share of the weights that become zero",
              .least = 0,
              .most = 1},
             sparsity);
    v.option({.name = "nm",
              .help = "instead: so many of every so many weights of a row stay, as 2:4",
              .value = "N:M"},
             nm);
}

Sparsity::Sparsity(const SparsityOptions& options, std::string_view where)
    : share(options.sparsity) {
    if (options.nm.empty()) return;
    const char *at = options.nm.data(), *const end = at + options.nm.size();
    auto parsed = std::from_chars(at, end, n);
    if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == ':')
        parsed = std::from_chars(parsed.ptr + 1, end, m);
    if (parsed.ec == std::errc() && parsed.ptr == end && n >= 1 && m > n && m <= 64) return;
    throw Error(Exit::kUsage, std::string(where), "nm=" + escaped(options.nm) + " is no pattern",
                "write nm=N:M, where N of every M weights stay, M at most 64");
}

std::int64_t Sparsity::zeros_of(std::int64_t weights) const {
    if (is_pattern()) return weights / m * (m - n);
    return std::llround(share * static_cast<double>(weights));
}

void Sparsity::check(std::string_view tensor, std::int64_t cols) const {
    if (!is_pattern() || cols % m == 0) return;
    throw Error(
        Exit::kUsage, "tensor '" + std::string(tensor) + "'",
        "has rows of " + std::to_string(cols) + " weights, no multiple of " + std::to_string(m),
        "leave it out: --only");
}

void zero_least(std::span<float> weights, std::span<const double> scores, std::int64_t count) {
    if (count <= 0) return;
    std::vector<std::uint32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0U);
    const auto less = [&](std::uint32_t a, std::uint32_t b) {
        return scores[a] != scores[b] ? scores[a] < scores[b] : a < b;
    };
    if (count < std::ssize(scores))
        std::nth_element(order.begin(), order.begin() + count, order.end(), less);
    for (std::int64_t i = 0; i < count; ++i) weights[order[static_cast<std::size_t>(i)]] = 0;
}

void zero_rows(std::span<float> weights, Shape2 shape, const Sparsity& sparsity, const Score& score,
               Team& team) {
    const std::int64_t group = sparsity.is_pattern() ? sparsity.m : shape.cols;
    const std::int64_t count = sparsity.zeros_of(group);
    team.run(shape.rows, 16, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> scores(static_cast<std::size_t>(group));
        for (std::int64_t r = begin; r < end; ++r) {
            for (std::int64_t first = 0; first < shape.cols; first += group) {
                const auto here = weights.subspan(static_cast<std::size_t>(r * shape.cols + first),
                                                  static_cast<std::size_t>(group));
                for (std::int64_t c = 0; c < group; ++c)
                    scores[static_cast<std::size_t>(c)] =
                        score(r, first + c, here[static_cast<std::size_t>(c)]);
                zero_least(here, scores, count);
            }
        }
    });
}

}  // namespace thimble::prune
