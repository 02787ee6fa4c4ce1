// SPDX-License-Identifier: Apache-2.0
// A recipe as data: steps in an order in which each comes after what it needs, variables and
// matrices already expanded. Reading checks everything that can be checked without the tools.
//
//   recipe: 1
//   vars: {text: /usr/share/common-licenses/GPL-3}
//   steps:
//     - id: q
//       matrix: {type: [q8_0, q4_0]}
//       uses: quantize
//       with: {model: in.gguf, output: "out-${matrix.type}.gguf", format: "${matrix.type}"}
//     - id: table
//       uses: evaluate report
//       with: {files: ["${steps.q[*].json}"]}  # of a matrix of two: q[a,*] has the first's value a
//     - id: good
//       uses: evaluate
//       with: {model: "${steps.q[q4_0].output}", reference: in.gguf, file: text.txt}
//       assert: [kld_mean<0.03]
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "cli/yaml.h"
#include "recipe/gate.h"
#include "recipe/overrides.h"

namespace thimble::recipe {

// One value of an option, all references replaced.
struct Value {
    std::string text;
    // Bytes that came from --set, the first of them if there are several: a path that starts with
    // them is the user's own, relative to the caller's directory; all others lie under the work
    // directory.
    std::size_t user_bytes = 0, user_at = 0;
};

struct StepOption {
    std::string name;
    std::string where;  // "r.yaml:8" or "--set steps.q.with.format"
    std::vector<Value> values;
};

enum class Measure : unsigned char {
    kNone,    // the outputs are all there is
    kOnce,    // the result holds timings: cached per machine, run again by --remeasure
    kAlways,  // run each time
};

struct Step {
    std::string id;    // "q" or, from a matrix, "q[q8_0]"
    std::string base;  // "q"
    int line = 0;
    std::string tool, command;  // "evaluate", "report"
    std::vector<StepOption> with;
    std::vector<std::size_t> needs;  // indices of earlier steps, ascending
    std::vector<Gate> gates;         // `assert`
    Measure measure = Measure::kNone;
    bool show = false;  // its stdout is part of the recipe's
    [[nodiscard]] const StepOption* find(std::string_view option) const noexcept;
};

struct Recipe {
    std::string file;
    std::string description;
    std::vector<Step> steps;
    [[nodiscard]] std::string at(int line) const { return file + ":" + std::to_string(line); }
    // The indices of "id" (all instances of a matrix) or "id[x]"; an unknown id is Error(kUsage).
    [[nodiscard]] std::vector<std::size_t> find(std::string_view id, std::string_view where) const;
};

// Errors are kUsage with "file:line", also for an override that hits nothing.
[[nodiscard]] Recipe parse_recipe(const cli::YamlNode& root, std::string_view file,
                                  const Overrides& overrides = {});

}  // namespace thimble::recipe
