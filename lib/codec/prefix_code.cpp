// SPDX-License-Identifier: Apache-2.0
#include "codec/prefix_code.h"

#include <algorithm>

namespace thimble {
namespace {

// A coin of the algorithm: symbols whose codes grow by a bit when it is spent.
struct Package {
    std::uint64_t weight = 0;
    std::vector<std::size_t> symbols;
};

bool lighter(const Package& a, const Package& b) { return a.weight < b.weight; }

}  // namespace

std::vector<int> code_lengths(std::span<const std::uint64_t> counts, int longest) {
    std::vector<int> lengths(counts.size(), 0);
    std::vector<Package> singles;
    for (std::size_t s = 0; s < counts.size(); ++s)
        if (counts[s] > 0) singles.push_back({counts[s], {s}});
    if (singles.size() == 1) lengths[singles[0].symbols[0]] = 1;
    if (singles.size() < 2) return lengths;
    std::stable_sort(singles.begin(), singles.end(), lighter);
    std::vector<Package> level = singles;
    for (int bits = 1; bits < longest; ++bits) {
        std::vector<Package> next = singles;
        for (std::size_t i = 0; i + 1 < level.size(); i += 2) {
            Package pair = level[i];
            pair.weight += level[i + 1].weight;
            pair.symbols.insert(pair.symbols.end(), level[i + 1].symbols.begin(),
                                level[i + 1].symbols.end());
            next.push_back(std::move(pair));
        }
        std::stable_sort(next.begin(), next.end(), lighter);
        level = std::move(next);
    }
    for (std::size_t i = 0; i < 2 * singles.size() - 2; ++i)
        for (const std::size_t s : level[i].symbols) ++lengths[s];
    return lengths;
}

}  // namespace thimble
