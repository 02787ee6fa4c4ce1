// SPDX-License-Identifier: Apache-2.0
// What the command line changes in a recipe: --set and --overlay files, the later one winning.
//   --set text=other.txt, --set vars.text=other.txt          a variable
//   --set steps.q4.with.format=q5_k, steps.q[a,b].measure=once   one key of a step or of an
//   instance an overlay file: {vars: {text: other.txt}, steps: {q4: {with: {format: q5_k, imatrix:
//   ~}}}}
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cli/yaml.h"

namespace thimble::recipe {

struct VariableOverride {
    std::string text, where;
    bool missing = false;  // `~`
    bool user = false;     // from --set: taken as it is, its paths are the user's
};

struct StepOverride {
    std::string step;    // "q4" or "q4[a]"
    std::string option;  // of `with`; or empty for another key of the step
    std::string key;     // "with", "measure", "show", "assert"
    std::vector<std::string> texts;
    bool remove = false;  // `~`: back to the tool's default
    bool user = false;
    std::string where;
};

struct Overlay {
    cli::YamlNode root;
    std::string file;
};

struct Overrides {
    std::map<std::string, VariableOverride> variables;
    std::vector<StepOverride> steps;
};

// Error(kUsage) for a malformed text or an unknown key.
[[nodiscard]] Overrides read_overrides(const std::vector<std::string>& sets,
                                       const std::vector<Overlay>& overlays);

}  // namespace thimble::recipe
