// SPDX-License-Identifier: Apache-2.0
#include "format/dynamic_values.h"

#include <cmath>

namespace thimble {
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

}  // namespace

std::vector<double> signed_dynamic_values() {
    const std::vector<double> positive = middles(1);
    std::vector<double> values;
    for (auto x = positive.rbegin(); x != positive.rend(); ++x) values.push_back(-*x);
    values.push_back(0);
    values.insert(values.end(), positive.begin(), positive.end());
    values.push_back(1);
    return values;
}

std::vector<double> unsigned_dynamic_values() {
    std::vector<double> values = middles(2);
    values.insert(values.begin(), values[0] / 2);
    values.push_back(1);
    return values;
}

}  // namespace thimble
