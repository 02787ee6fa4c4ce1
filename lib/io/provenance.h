// SPDX-License-Identifier: Apache-2.0
// How a file came to be, recorded in its metadata under `thimble.*`: one JSON line per step, in
// order. Names and hashes of inputs, never paths, dates or thread counts: equal inputs give equal
// bytes.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "core/options.h"
#include "io/model_file.h"

namespace thimble {

inline constexpr std::string_view kStepsKey = "thimble.steps";

struct ProvenanceStep {
    std::string_view tool, version;
    Visitable options;  // those that change the output are recorded
    std::span<const std::string> input_files;
    // Types of tensors that were quantised before this step quantised them again, by name, and how
    // many: {"q4_1": 210}. Recorded unless empty.
    std::map<std::string, std::int64_t> requantized = {};
};

// Hex SHA-256 stands in for every hash until the inputs have been read: same length.
inline constexpr std::string_view kUnknownSha256 =
    "0000000000000000000000000000000000000000000000000000000000000000";

// Appends the step to metadata's `thimble.steps`. hash_inputs: read the inputs and record their
// SHA-256; else the text has the same length with zeros in place of hashes (for plans).
void append_step(Metadata& metadata, const ProvenanceStep& step, bool hash_inputs);

// All steps so far as one JSON array, for containers whose metadata are texts.
[[nodiscard]] std::string steps_text(const Metadata& metadata);

}  // namespace thimble
