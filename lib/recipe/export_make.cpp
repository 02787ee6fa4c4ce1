// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "core/strings.h"
#include "recipe/child.h"
#include "recipe/export.h"

namespace thimble::recipe {
namespace {

// A file name as a target or prerequisite. make has no way to write some characters.
std::string make_name(const std::string& path) {
    static constexpr std::string_view kPlain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+,@^'\"(){}!<>`";
    std::string out;
    for (const char c : path) {
        if (c == '$') {
            out += "$$";
        } else if (c == ' ' || c == '#') {
            out += '\\';
            out += c;
        } else if (kPlain.find(c) != std::string_view::npos ||
                   (static_cast<unsigned char>(c) & 0x80U) != 0) {
            out += c;
        } else {
            throw Error(Exit::kUsage, escaped(path),
                        "make cannot name a file with '" + escaped(std::string(1, c)) + "'",
                        "rename it, or choose recipe run");
        }
    }
    return out;
}

// A line of a rule: make expands '$' before the shell sees it.
std::string make_line(const std::vector<std::string>& words) {
    std::string out;
    for (const char c : shell_line(words)) {
        if (c == '\n')
            throw Error(Exit::kUsage, words.front(), "make cannot hold a newline in an option",
                        "choose recipe run, or put the text into a file");
        out += c;
        if (c == '$') out += c;
    }
    return out;
}

std::string joined(const std::vector<std::string>& paths) {
    std::string out;
    for (const std::string& path : paths) out += " " + make_name(path);
    return out;
}

class Makefile {
  public:
    Makefile(const std::vector<ShellStep>& steps, const std::string& stamps)
        : steps_(steps), stamps_(stamps) {
        for (const ShellStep& step : steps_) tools_[step.command.front()] = step.tool;
        for (const ShellStep& step : steps_)
            if (!step.gate.empty()) tools_[step.gate.front()] = "recipe";
    }

    std::string run(const std::string& source) {
        std::string out = "# Made by recipe export --make from " + escaped(source) +
                          ": run make in the directory where that was done.\n" +
                          "# A failed gate shows as 'Error 3'; make itself ends with 2.\n" +
                          ".DELETE_ON_ERROR:\n.SUFFIXES:\n.PHONY: all clean\n"
                          "SHELL = /bin/sh\nMAKEFLAGS += --no-builtin-rules\n\n";
        for (const auto& [path, tool] : tools_) out += variable(tool) + " = " + value(path) + "\n";
        out += "\nall:" + joined(all_targets()) + "\n";
        for (std::size_t i = 0; i < steps_.size(); ++i) out += rules(i);
        return out + clean();
    }

  private:
    static std::string variable(const std::string& tool) {
        std::string name;
        for (const char c : tool)
            name += c == '-' ? '_' : (c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c);
        return name;
    }
    // A variable's value: its '#' would begin a comment.
    static std::string value(const std::string& path) {
        std::string out;
        for (const char c : make_line({path})) {
            if (c == '#') out += '\\';
            out += c;
        }
        return out;
    }
    [[nodiscard]] std::string command_line(const std::vector<std::string>& command) const {
        const std::string line = make_line(command);
        const std::string first = make_line({command.front()});
        return "$(" + variable(tools_.at(command.front())) + ")" + line.substr(first.size());
    }
    [[nodiscard]] std::string stamp(const ShellStep& step, const char* kind) const {
        return stamps_ + "/" + file_name_of(step.id) + kind;
    }
    [[nodiscard]] std::vector<std::string> targets(const ShellStep& step) const {
        return step.outputs.empty() ? std::vector<std::string>{stamp(step, ".done")} : step.outputs;
    }
    [[nodiscard]] std::vector<std::string> all_targets() const {
        std::vector<std::string> all;
        for (const ShellStep& step : steps_) {
            for (const std::string& target : targets(step)) all.push_back(target);
            if (!step.gate.empty()) all.push_back(stamp(step, ".gate"));
        }
        return all;
    }

    std::string rules(std::size_t i) const {
        const ShellStep& step = steps_[i];
        std::vector<std::string> files, first;  // `first`: must be made before, however old
        for (const std::string& input : step.inputs) {
            std::error_code failed;
            const bool directory = std::filesystem::is_directory(input, failed);
            std::vector<std::string>& list = directory ? first : files;
            if (std::find(list.begin(), list.end(), input) == list.end()) list.push_back(input);
        }
        for (const std::size_t need : step.needs) {
            for (const std::string& target : targets(steps_[need]))
                if (std::find(files.begin(), files.end(), target) == files.end())
                    first.push_back(target);
            if (!steps_[need].gate.empty()) first.push_back(stamp(steps_[need], ".gate"));
        }
        const std::vector<std::string> made = targets(step);
        std::string out = "\n# " + step.id + "\n" + joined(made).substr(1) +
                          (made.size() > 1 ? " &:" : ":") + joined(files);
        if (!first.empty()) out += " |" + joined(first);
        out += "\n";
        std::vector<std::string> directories = step.directories;
        if (step.outputs.empty()) directories.push_back(stamps_);
        for (const std::string& directory : directories)
            out += "\t@" + make_line({"mkdir", "-p", directory}) + "\n";
        out += "\t" + command_line(step.command) + "\n";
        if (step.outputs.empty()) out += "\t@" + make_line({"touch", made.front()}) + "\n";
        if (step.gate.empty()) return out;
        const std::string gate = stamp(step, ".gate");
        return out + make_name(gate) + ": " + make_name(step.figures) + "\n\t@" +
               make_line({"mkdir", "-p", stamps_}) + "\n\t" + command_line(step.gate) + "\n\t@" +
               make_line({"touch", gate}) + "\n";
    }

    [[nodiscard]] std::string clean() const {
        std::string out = "\nclean:\n";
        for (const std::string& target : all_targets())
            out += "\t" + make_line({"rm", "-f", target}) + "\n";
        return out;
    }

    const std::vector<ShellStep>& steps_;
    std::string stamps_;
    std::map<std::string, std::string> tools_;  // executable -> name
};

}  // namespace

std::string makefile(const std::vector<ShellStep>& steps, const std::string& source,
                     const std::string& stamps) {
    return Makefile(steps, stamps).run(source);
}

}  // namespace thimble::recipe
