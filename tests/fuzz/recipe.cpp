// SPDX-License-Identifier: Apache-2.0
// Hostile recipes: YAML, variables, matrices, references, gates, order; what is drawn and exported
// from them. After a byte 1 comes an overlay.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cli/yaml.h"
#include "core/error.h"
#include "recipe/export.h"
#include "recipe/tell.h"

using namespace thimble;

namespace {

// Steps as they would be exported, options and all, without tools to check them.
std::vector<recipe::ShellStep> shell_steps(const recipe::Recipe& r) {
    std::vector<recipe::ShellStep> steps;
    for (const recipe::Step& step : r.steps) {
        recipe::ShellStep made;
        made.id = step.id;
        made.base = step.base;
        made.tool = step.tool;
        made.command = {step.tool};
        for (const recipe::StepOption& option : step.with)
            for (const recipe::Value& value : option.values) {
                made.command.push_back(value.text);
                made.outputs.push_back(value.text);
            }
        made.needs = step.needs;
        steps.push_back(made);
    }
    return steps;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const std::size_t cut = text.find('\x01');
    try {
        std::vector<recipe::Overlay> overlays;
        if (cut != std::string_view::npos)
            overlays.push_back({cli::parse_yaml(text.substr(cut + 1), "overlay"), "overlay"});
        const recipe::Recipe r = recipe::parse_recipe(cli::parse_yaml(text.substr(0, cut), "fuzz"),
                                                      "fuzz", recipe::read_overrides({}, overlays));
        for (const char* format : {"dot", "mermaid"}) (void)recipe::graph_text(r, format);
        if (r.steps.size() <= 20) (void)recipe::graph_text(r, "text");
        const std::vector<recipe::ShellStep> steps = shell_steps(r);
        (void)recipe::batch_script(steps, "fuzz", "stamps", {});
        (void)recipe::makefile(steps, "fuzz", "stamps");
    } catch (const Error& e) {
        if (e.exit() != Exit::kUsage) __builtin_trap();
    }
    return 0;
}
