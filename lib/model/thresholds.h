// SPDX-License-Identifier: Apache-2.0
// Thresholds below which a feed-forward block's activations are dropped (ops/kept.h), as a file
// has them: of layer i an array of F32 under "thimble.ffn_thresholds.i", a value for each channel.
// Weights are as they were, so programs that do not know of thresholds run the model without.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "io/model_file.h"
#include "tensor/view.h"

namespace thimble {

class ModelSource;

inline constexpr std::string_view kThresholdsKey = "thimble.ffn_thresholds.";
inline constexpr std::string_view kThresholdsMethodKey = "thimble.ffn_thresholds";

// By layer, [channels]: finite and not negative; the largest float drops whatever comes.
using Thresholds = std::vector<std::vector<float>>;

// nullopt: there are none. Error(kBadData) where some layers have none, or not one for each of its
// `channels`.
[[nodiscard]] std::optional<Thresholds> read_thresholds(const Metadata& metadata,
                                                        const std::vector<std::int64_t>& channels);
// In place of what is there. `method`: how they came about.
void write_thresholds(const Thresholds& thresholds, const std::string& method, Metadata& metadata);
void erase_thresholds(Metadata& metadata);

// Of a model with thresholds: what drops what, and whether that saves reading weights.
[[nodiscard]] std::string describe_thresholds(const ModelSource& source, Device device,
                                              bool repack);

}  // namespace thimble
