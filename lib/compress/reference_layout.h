// SPDX-License-Identifier: Apache-2.0
// What a directory in the layout of DFloat11's authors holds (facts of their public code; the paper
// stands in codec/dfloat11.h). config.json has
//   "dfloat11_config": {"version", "threads_per_block": [512], "bytes_per_thread": 8,
//                       "pattern_dict": {pattern of modules: [paths of the matrices within]}}
// and each module that such a pattern names has tensors instead of its matrices' weights, which are
// one row of numbers, in the order of the paths:
//   luts [n, 256] U8, encoded_exponent [n] U8, sign_mantissa [numbers] U8, gaps [n] U8,
//   output_positions [4 n] U8: little-endian words, split_positions [paths - 1] I64: the first
//   number of each matrix but the first
// Without paths the module is a matrix itself. Shapes are not stored: they are those that a
// transformer's matrices of these names have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace thimble {

inline constexpr const char* kReferenceConfig = "dfloat11_config";
inline constexpr const char* kReferenceVersion = "0.5.0";

// Of a matrix by the last part of its path, with so many numbers; nullopt where the name is not
// known or does not fit.
[[nodiscard]] std::optional<std::vector<std::uint64_t>> reference_dims(std::string_view path,
                                                                       std::uint64_t numbers,
                                                                       std::uint64_t hidden);
// Width of the model; Error(kBadData) where config.json does not say it.
[[nodiscard]] std::uint64_t reference_width(const Json& config, const std::string& where);

// Patterns are regular expressions of which only letters, escaped signs, '.' and \d+ are known
// here: Error(kBadData) naming any other.
[[nodiscard]] bool matches_pattern(std::string_view pattern, std::string_view module,
                                   const std::string& where);
[[nodiscard]] std::string literal_pattern(std::string_view module);

// config.json with other words about DFloat11, or with none.
[[nodiscard]] Json with_reference_config(const Json& config, const Json* reference);

}  // namespace thimble
