// SPDX-License-Identifier: Apache-2.0
// A command's options as help text, as a JSON Schema and as a commented config file.
#pragma once

#include <span>
#include <string>

#include "cli/settings.h"
#include "cli/tool.h"

namespace thimble::cli {

// "run" or "recipe check"
[[nodiscard]] std::string full_name(const ToolInfo& tool, const Command& command);

// The whole tool when it has no default command and none was chosen.
[[nodiscard]] std::string help_text(const ToolInfo& tool, std::span<const Command> commands);
[[nodiscard]] std::string help_text(const ToolInfo& tool, std::span<const Command> commands,
                                    const Command& command, std::span<const OptionRecord> records);

// JSON Schema (2020-12) of a config file. Beyond the standard keywords: "x-input", "x-output" (the
// value names a file), "x-inline-inputs" (by the name before its colon, the keys of an inline value
// that name files), "x-changes-output", "x-aliases", "x-version"; of a tool's default command
// "x-commands", the others' names.
[[nodiscard]] Json option_schema(const ToolInfo& tool, const Command& command,
                                 std::span<const OptionRecord> records);

// YAML that --config reads back; each line says where its value comes from.
[[nodiscard]] std::string config_text(std::span<const OptionRecord> records,
                                      const Sources& sources);

// Name -> typed value.
[[nodiscard]] Json option_values(std::span<const OptionRecord> records);

// {"formats": ["f32", ...]} as "formats: f32 ..." lines.
[[nodiscard]] std::string list_text(const Json& names);

}  // namespace thimble::cli
