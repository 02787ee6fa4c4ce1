// SPDX-License-Identifier: Apache-2.0
// Which query heads of a model find things, and how much each layer loses to a small cache:
// measured once (evaluate --find-retrieval-heads), then a sidecar of the model for policies that
// read it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "kv/policy.h"

namespace thimble {

struct HeadProfile {
    std::string model;  // fingerprint of the one it was measured on
    std::int64_t query_heads = 0;
    std::vector<std::vector<std::int64_t>> heads;  // of each layer, best first
    std::vector<double> layer_score;               // of each layer, at least 0

    // {"model": "...", "query_heads": 9, "heads": [[3, 1], ...], "layer_score": [0.1, ...]}.
    // Error(kBadData) naming `where` and the key.
    [[nodiscard]] static HeadProfile parse(std::string_view text, std::string_view where);
    [[nodiscard]] static HeadProfile read(const std::string& path);
    [[nodiscard]] Json json() const;
    // Error(kBadData) where it is of a model with other layers or heads.
    void check(const ModelInfo& model, std::string_view path) const;
};

}  // namespace thimble
