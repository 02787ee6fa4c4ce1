// SPDX-License-Identifier: Apache-2.0
// Where option values come from: flags beat the --config file, which beats the environment
// (THIMBLE_<TOOL>_<OPTION>), which beats the defaults.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/arguments.h"
#include "cli/yaml.h"
#include "core/options.h"

namespace thimble::cli {

// Long name -> "flag", "file.yaml:3", "environment THIMBLE_RUN_SEED"; absent: the default.
using Sources = std::map<std::string, std::string>;

// "offload-train", "ctx-size" -> "THIMBLE_OFFLOAD_TRAIN_CTX_SIZE"
[[nodiscard]] std::string environment_name(std::string_view tool, std::string_view option);

// Each sets what it finds and notes the source. Unknown names are errors (exit 2) with the nearest
// one; `known` are the variables' names that other commands of the tool take.
void apply_environment(std::string_view tool, const Visitable& options,
                       std::span<const std::string> known, const char* const* environment,
                       Sources& sources);
void apply_config(const YamlNode& root, std::string_view file, const Visitable& options,
                  Sources& sources);
void apply_flags(std::span<const GivenOption> given, const Visitable& options, Sources& sources);

// A YAML value as option texts: a scalar, a list of scalars, or a map with `name` that becomes
// "name:key=value,...". `where` is for errors.
[[nodiscard]] std::vector<std::string> option_texts(const YamlNode& value, std::string_view where);

void check_required(const Visitable& options, const Sources& sources);

}  // namespace thimble::cli
