// SPDX-License-Identifier: Apache-2.0
// tests/golden/train/optimizer.json, made by scripts/make_golden_optimizer.py.
#pragma once

#include <string>
#include <vector>

#include "io/file.h"
#include "io/json.h"

namespace thimble::test {

inline const Json& golden_train() {
    static const std::string path = std::string(THIMBLE_TESTS_DIR) + "/golden/train/optimizer.json";
    static const Json json = parse_json(read_text_file(path, 1 << 20), path);
    return json;
}

inline std::vector<double> numbers(const Json& array) {
    std::vector<double> out;
    for (const Json& x : array.as_array("golden")) out.push_back(x.as_double("golden"));
    return out;
}
inline std::vector<float> floats(const Json& array) {
    std::vector<float> out;
    for (const Json& x : array.as_array("golden"))
        out.push_back(static_cast<float>(x.as_double("golden")));
    return out;
}

}  // namespace thimble::test
