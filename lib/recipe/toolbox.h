// SPDX-License-Identifier: Apache-2.0
// The sibling executables that steps run, and their options as --print-schema tells them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/tool.h"
#include "recipe/recipe.h"

namespace thimble::recipe {

// Beside this executable; installed, both are called thimble-<name>.
struct ToolDirectory {
    std::string directory, prefix;
    [[nodiscard]] static ToolDirectory beside_this_executable();
    [[nodiscard]] std::string path(std::string_view tool) const;
    [[nodiscard]] std::vector<std::string> names() const;  // executables there, without the prefix
};

// One step made concrete: checked options, paths resolved.
struct StepCommand {
    std::string executable;
    std::string version;  // "quantize 0.1.0"
    std::vector<std::string> argv;
    struct Path {
        std::string option, path;  // resolved
        std::string where;         // in the recipe
    };
    std::vector<Path> inputs, outputs;
    std::string report;        // the step's own --json file, or empty
    bool can_replace = false;  // takes --overwrite and does not set it
    // Where gates find their figures: an output whose name ends in .json, else the step's own
    // report, else empty: the report that the runner asks for.
    std::string figures;
    // The options that can change the result, in the schema's order, defaults left out, inputs
    // without their paths: what a cache key is made of.
    Json key_options = Json::object();
};

struct Surroundings {
    std::string workdir, caller_directory;
    // Passed on to every step that takes them and does not set them.
    const cli::CommonOptions* common = nullptr;
};

class Toolbox {
  public:
    explicit Toolbox(ToolDirectory directory) : directory_(std::move(directory)) {}

    // JSON Schema of a tool's command; asked once.
    [[nodiscard]] const Json& schema(const Recipe& recipe, const Step& step);
    // Of every tool that a step can use and its commands, by name; those that are not there are
    // left out.
    [[nodiscard]] std::map<std::string, Json> all_schemas() const;
    // Checks `with` against the schema. Error(kUsage) with file:line.
    [[nodiscard]] StepCommand command(const Recipe& recipe, const Step& step,
                                      const Surroundings& surroundings);

  private:
    // Nothing when the tool refuses the command.
    [[nodiscard]] std::optional<Json> ask(const std::string& tool,
                                          const std::string& command) const;
    ToolDirectory directory_;
    std::map<std::string, Json> schemas_;
};

// Where a relative path of a recipe leads. Error(kUsage) for '..', and for an absolute output, that
// do not come from the user.
[[nodiscard]] std::string resolve_path(const Value& value, const Surroundings& surroundings,
                                       bool is_output, std::string_view where);

}  // namespace thimble::recipe
