// SPDX-License-Identifier: Apache-2.0
// Splits a command line into named values by an option struct's records (over CLI11, which only
// this folder sees). Values stay text here: types, bounds and choices are checked when they are
// set.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/options.h"

namespace thimble::cli {

struct GivenOption {
    std::string name;  // the option's long name
    std::vector<std::string> values;
};

// `arguments` without program and command names. `words` are other first words that the user may
// have meant (command names), for the suggestion. Throws Error(kUsage).
[[nodiscard]] std::vector<GivenOption> parse_arguments(std::span<const OptionRecord> records,
                                                       std::vector<std::string> arguments,
                                                       std::span<const std::string> words);

}  // namespace thimble::cli
