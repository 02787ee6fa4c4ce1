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

// The config of what is left.
[[nodiscard]] ModelConfig config_after(const Cut& cut, const ModelConfig& config);

// Elements of a rule's side that stay; nullopt: all.
[[nodiscard]] std::optional<Kept> kept_of(Extent side, std::int64_t layer, const Cut& cut,
                                          const ModelConfig& config);

// How many parts each layer keeps where `count` of all stay, and at least least[layer] of a
// layer's: those that are the largest share of the sum of their layer's values, of equal ones the
// first. values[layer]: of its parts in the order in which they stay, none larger than the one
// before.
[[nodiscard]] std::vector<std::int64_t> share_out(const std::vector<std::vector<double>>& values,
                                                  std::int64_t count,
                                                  const std::vector<std::int64_t>& least);

// For plans, where no value is known: as even as can be, but layers that could be alike are not,
// for the lists that a config then has. parts[layer]: how many there are.
[[nodiscard]] std::vector<std::int64_t> spread(const std::vector<std::int64_t>& parts,
                                               std::int64_t count);

// The `count` places of the largest scores, ascending; of equal ones the first stay.
[[nodiscard]] Kept largest(std::span<const double> scores, std::int64_t count);

}  // namespace thimble::prune
