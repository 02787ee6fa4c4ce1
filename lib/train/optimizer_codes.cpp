// SPDX-License-Identifier: Apache-2.0
#include "train/optimizer_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace thimble::train {
namespace {

// Middles of `parts`, 2 * parts, 4 * parts ... equal parts of the seven decades, ascending.
std::vector<double> middles(int parts) {
    std::vector<double> out;
    for (int decade = -6; decade <= 0; ++decade, parts *= 2) {
        for (int part = 0; part < parts; ++part)
            out.push_back((0.1 + 0.9 * (part + 0.5) / parts) * std::pow(10.0, decade));
    }
    return out;
}

// The largest float that is not above x.
float below(double x) {
    const auto nearest = static_cast<float>(x);
    constexpr float kLowest = -std::numeric_limits<float>::infinity();
    return static_cast<double>(nearest) > x ? std::nextafter(nearest, kLowest) : nearest;
}

DynamicMap make_map(const std::vector<double>& values, bool keep_sign) {
    DynamicMap map{};
    for (std::size_t i = 0; i < 256; ++i) map.values[i] = static_cast<float>(values[i]);
    for (std::size_t i = 0; i < 255; ++i) {
        const double middle =
            0.5 * (static_cast<double>(map.values[i]) + static_cast<double>(map.values[i + 1]));
        map.borders[i] = below(middle);
        if (!keep_sign) continue;
        if (map.values[i + 1] == 0) map.borders[i] = -std::numeric_limits<float>::denorm_min();
        if (map.values[i] == 0) map.borders[i] = 0;
    }
    map.borders[255] = std::numeric_limits<float>::infinity();
    // A cell's lowest number: its first for the positive ones, its last for the negative ones.
    const auto code_of = [&](float x) {
        return static_cast<std::uint8_t>(std::lower_bound(map.borders, map.borders + 255, x) -
                                         map.borders);
    };
    constexpr std::uint32_t kFirst = 104u << 7;  // upper half of 2^-23
    for (std::uint32_t i = 0; i < DynamicMap::kCells; ++i) {
        const float low = i == 0 ? 0.0f : bits_to_float((kFirst + i - 1) << 16);
        const bool last = i + 1 == DynamicMap::kCells;
        const float high =
            last ? std::numeric_limits<float>::infinity() : bits_to_float(((kFirst + i) << 16) - 1);
        map.cells[i] = code_of(low);
        map.cells[DynamicMap::kCells + i] = code_of(-high);
    }
    return map;
}

}  // namespace

const DynamicMap& signed_map() {
    static const DynamicMap map = [] {
        const std::vector<double> positive = middles(1);
        std::vector<double> values;
        for (auto x = positive.rbegin(); x != positive.rend(); ++x) values.push_back(-*x);
        values.push_back(0);
        values.insert(values.end(), positive.begin(), positive.end());
        values.push_back(1);
        return make_map(values, true);
    }();
    return map;
}

const DynamicMap& unsigned_map() {
    static const DynamicMap map = [] {
        std::vector<double> values = middles(2);
        values.insert(values.begin(), values[0] / 2);
        values.push_back(1);
        return make_map(values, false);
    }();
    return map;
}

}  // namespace thimble::train
