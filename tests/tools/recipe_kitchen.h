// SPDX-License-Identifier: Apache-2.0
// A directory with a recipe in it, for tests of the recipe tool.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace thimble::test {

struct Kitchen {
    TemporaryDirectory directory;
    std::string recipe_file = directory.file("r.yaml");
    std::string tools = std::filesystem::path(THIMBLE_TOY).parent_path();  // with the toy tool

    explicit Kitchen(const std::string& text) {
        directory.write("r.yaml", text);
        directory.write("in.txt", "hello");
    }
    // `recipe COMMAND r.yaml --workdir w --tools ... MORE` in the directory.
    [[nodiscard]] ProcessResult run(std::vector<std::string> arguments,
                                    ProcessOptions options = {}) const {
        std::vector<std::string> command = {tool_path("recipe"), arguments.front(), recipe_file,
                                            "--workdir", work};
        if (!tools.empty()) command.insert(command.end(), {"--tools", tools});
        command.insert(command.end(), arguments.begin() + 1, arguments.end());
        if (options.directory.empty()) options.directory = directory.path();
        return run_process(command, options);
    }
    [[nodiscard]] ProcessResult shell(const std::string& line, ProcessOptions options = {}) const {
        options.directory = directory.path();
        return run_process({"/bin/bash", "-c", line}, options);
    }
    [[nodiscard]] std::string out(std::string_view name) const {
        return read_file(directory.file("w/" + std::string(name)));
    }
    [[nodiscard]] bool there(std::string_view name) const {
        return std::filesystem::exists(directory.file("w/" + std::string(name)));
    }
    std::string work = directory.file("w");
};

inline std::vector<std::string> with(std::vector<std::string> arguments,
                                     const std::vector<std::string>& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
}

inline bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

}  // namespace thimble::test
