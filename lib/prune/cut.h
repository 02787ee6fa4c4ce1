// SPDX-License-Identifier: Apache-2.0
// What is left of a model when whole layers, heads or channels go: the numbers of its config, and
// which rows and columns of each tensor stay. Both follow from the rules of the architecture, so no
// method names a tensor.
#pragma once

#include <optional>
#include <vector>

#include "model/source.h"

namespace thimble::prune {

// Places that stay, ascending, each once.
using Kept = std::vector<std::int64_t>;

struct LayerCut {
    std::optional<Kept> heads, kv_heads, channels;  // nullopt: all stay
};

struct Cut {
    Kept layers;
    std::vector<LayerCut> of;  // by the source's layers, dropped ones among them
    std::optional<Kept> tokens;
};
// All stays.
[[nodiscard]] Cut whole(const ModelConfig& config);

// The config of what is left. Error(kFailure) where kept layers differ in their numbers of heads or
// channels.
[[nodiscard]] ModelConfig config_after(const Cut& cut, const ModelConfig& config);

// Elements of a rule's side that stay; nullopt: all.
[[nodiscard]] std::optional<Kept> kept_of(Extent side, std::int64_t layer, const Cut& cut,
                                          const ModelConfig& config);

// The `count` places of the largest scores, ascending; of equal ones the first stay.
[[nodiscard]] Kept largest(std::span<const double> scores, std::int64_t count);

}  // namespace thimble::prune
