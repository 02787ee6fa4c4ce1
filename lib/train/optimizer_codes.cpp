// SPDX-License-Identifier: Apache-2.0
#include "train/optimizer_codes.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "format/dynamic_values.h"

namespace thimble::train {
namespace {

// The nearest code, the lower one of two.
int nearest(const DynamicMap& map, float x) {
    const float* above = std::lower_bound(map.values, map.values + 256, x);
    const auto at = static_cast<int>(above - map.values);
    if (at == 0) return 0;
    if (at == 256) return 255;
    const double middle = 0.5 * (static_cast<double>(above[-1]) + static_cast<double>(above[0]));
    return static_cast<double>(x) > middle ? at : at - 1;
}

// One of DynamicMap::cells. `code` gives the code of a number.
template <class Code>
std::int32_t make_cell(int cell, Code&& code) {
    const bool negative = cell >= DynamicMap::kCells;
    const int upper = cell % DynamicMap::kCells + DynamicMap::kBelow;
    const auto number = [&](int lower) {
        const auto bits = static_cast<std::uint32_t>(upper << 16 | lower);
        return bits_to_float(bits | (negative ? 0x80000000u : 0u));
    };
    const bool whole = cell % DynamicMap::kCells == 0 || upper == 0x3f80;  // the first and the last
    const int first = code(number(whole ? 1 : 0)), last = code(number(whole ? 1 : 0xffff));
    int from = 0, to = 0xffff;  // the largest lower half of the first code is in [from, to]
    while (from < to && !whole) {
        const int middle = (from + to + 1) / 2;
        if (code(number(middle)) == first) {
            from = middle;
        } else {
            to = middle - 1;
        }
    }
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(last - first) << 24 |
                                     static_cast<std::uint32_t>(first << 16 | to));
}

DynamicMap make_map(const std::vector<double>& values) {
    DynamicMap map{};
    for (std::size_t i = 0; i < 256; ++i) map.values[i] = static_cast<float>(values[i]);
    map.code_of_zero = nearest(map, 0);
    const auto code = [&](float x) {
        const int near = nearest(map, x);
        return map.values[near] == 0 ? near + (x > 0 ? 1 : -1) : near;  // a number keeps its sign
    };
    for (int cell = 0; cell < 2 * DynamicMap::kCells; ++cell)
        map.cells[cell] = make_cell(cell, code);
    return map;
}

}  // namespace

const DynamicMap& signed_map() {
    static const DynamicMap map = make_map(signed_dynamic_values());
    return map;
}

const DynamicMap& unsigned_map() {
    static const DynamicMap map = make_map(unsigned_dynamic_values());
    return map;
}

}  // namespace thimble::train
