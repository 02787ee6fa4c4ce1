// SPDX-License-Identifier: Apache-2.0
// A step's `matrix`: every combination of its axes' values, less what `exclude` names, plus what
// `include` adds.
//   matrix:
//     model: [a, {name: b, file: b.gguf}]     # ${matrix.model}, ${matrix.model.file}
//     format: [q8_0, q4_0]
//     exclude: [{model: a, format: q4_0}]     # an axis left out stands for all its values
//     include: [{model: b, format: f16}]      # every axis named
#pragma once

#include <string>
#include <vector>

#include "recipe/scope.h"

namespace thimble::recipe {

inline constexpr std::size_t kMaxSteps = 1000;

struct Matrix {
    std::vector<std::string> axes;  // in the file's order
    std::vector<Instance> instances;
    // "b,q4_0": what stands in an instance's id
    [[nodiscard]] std::string label(const Instance& instance) const;
};

// Error(kUsage) with the line, also for an `exclude` that hits nothing.
[[nodiscard]] Matrix read_matrix(const cli::YamlNode& node, const Scope& scope);

}  // namespace thimble::recipe
