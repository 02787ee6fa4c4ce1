// SPDX-License-Identifier: Apache-2.0
#include "recipe/export.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "recipe/child.h"

namespace thimble::recipe {
namespace {

std::string parent_of(const std::string& path) {
    return std::filesystem::path(path).parent_path().string();
}

}  // namespace

std::string export_directory(const Runner& runner) {
    return (std::filesystem::path(runner.workdir()) / ".thimble/export").lexically_normal();
}

std::vector<ShellStep> shell_steps(const Runner& runner, bool replace) {
    const std::string gates = ToolDirectory::beside_this_executable().path("recipe");
    std::vector<ShellStep> all;
    for (std::size_t i = 0; i < runner.recipe().steps.size(); ++i) {
        const Step& step = runner.recipe().steps[i];
        const StepCommand& command = runner.command(i);
        ShellStep made;
        made.id = step.id;
        made.base = step.base;
        made.tool = step.tool;
        made.command = command.argv;
        made.figures = command.figures;
        made.needs = step.needs;
        for (const StepCommand::Path& input : command.inputs) made.inputs.push_back(input.path);
        for (const StepCommand::Path& output : command.outputs) made.outputs.push_back(output.path);
        if (replace && command.can_replace) made.command.push_back("--overwrite");
        if (!step.gates.empty()) {
            if (made.figures.empty()) {
                made.figures = export_directory(runner) + "/" + file_name_of(step.id) + ".json";
                made.command.insert(made.command.end(), {"--json", made.figures});
                made.outputs.push_back(made.figures);
            }
            made.gate = {gates, "gate", made.figures};
            for (const Gate& gate : step.gates)
                made.gate.insert(made.gate.end(), {"--assert", gate.text()});
        }
        for (const std::string& output : made.outputs) {
            const std::string parent = parent_of(output);
            const auto end = made.directories.end();
            if (!parent.empty() && std::find(made.directories.begin(), end, parent) == end)
                made.directories.push_back(parent);
        }
        all.push_back(std::move(made));
    }
    return all;
}

std::string shell_script(const Runner& runner) {
    const std::vector<ShellStep> steps = shell_steps(runner, false);
    std::string out;
    std::set<std::string> made;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        if (!runner.selected(i)) continue;
        out += "# " + steps[i].id + "\n";
        for (const std::string& directory : steps[i].directories)
            if (made.insert(directory).second) out += "mkdir -p " + shell_quoted(directory) + "\n";
        out += shell_line(steps[i].command) + "\n";
        if (!steps[i].gate.empty()) out += shell_line(steps[i].gate) + "\n";
    }
    return out;
}

}  // namespace thimble::recipe
