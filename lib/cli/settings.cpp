// SPDX-License-Identifier: Apache-2.0
#include "cli/settings.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::cli {
namespace {

std::string flag(std::string_view name) { return "--" + std::string(name); }

// One entry of a list, or a scalar: "text", or {name: n, key: v} as "n:key=v".
std::string single_text(const YamlNode& value, const std::string& where) {
    if (value.is_scalar()) return value.text;
    const YamlNode* name = value.find("name");
    if (!value.is_map() || name == nullptr || !name->is_scalar()) {
        throw Error(Exit::kUsage, where, "is not a value",
                    "write a text, a number, a list of them, or a map with 'name'");
    }
    std::string text = name->text;
    char separator = ':';
    for (const YamlMember& member : value.members) {
        if (&member.value == name) continue;
        for (const std::string& part : option_texts(member.value, where + "." + member.key)) {
            text += separator + member.key + "=";
            for (const char c : part) {
                if (c == ',' || c == '\\') text += '\\';
                text += c;
            }
            separator = ',';
        }
    }
    return text;
}

}  // namespace

std::string environment_name(std::string_view tool, std::string_view option) {
    std::string name = "THIMBLE_" + std::string(tool) + "_" + std::string(option);
    for (char& c : name) {
        if (c == '-') c = '_';
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    }
    return name;
}

std::vector<std::string> option_texts(const YamlNode& value, std::string_view where) {
    const std::string place(where);
    if (!value.is_list()) return {single_text(value, place)};
    std::vector<std::string> texts;
    for (const YamlNode& item : value.items) texts.push_back(single_text(item, place));
    return texts;
}

void apply_environment(std::string_view tool, const Visitable& options,
                       std::span<const std::string> known, const char* const* environment,
                       Sources& sources) {
    const std::string prefix = environment_name(tool, "");
    std::vector<OptionRecord> records = list_options(options);
    for (; environment != nullptr && *environment != nullptr; ++environment) {
        const std::string_view entry = *environment;
        const std::size_t equals = entry.find('=');
        if (!entry.starts_with(prefix) || equals == std::string_view::npos) continue;
        const std::string variable(entry.substr(0, equals));
        const auto record = std::find_if(records.begin(), records.end(), [&](const auto& r) {
            return environment_name(tool, r.info.name) == variable;
        });
        if (record == records.end()) {
            if (std::find(known.begin(), known.end(), variable) != known.end()) continue;
            throw Error(Exit::kUsage, variable, "no such option of " + std::string(tool),
                        did_you_mean(variable, known));
        }
        const std::string text(entry.substr(equals + 1));
        const bool list = record->type == OptionType::kList;
        const std::vector<std::string> texts =
            list ? split(text, ',') : std::vector<std::string>{text};
        set_option(options, record->info.name, texts, variable);
        sources[record->info.name] = "environment " + variable;
    }
}

void apply_config(const YamlNode& root, std::string_view file, const Visitable& options,
                  Sources& sources) {
    const auto place = [&](int line) { return std::string(file) + ":" + std::to_string(line); };
    if (root.kind == YamlNode::Kind::kNull) return;
    if (!root.is_map())
        throw Error(Exit::kUsage, place(root.line), "is not a map of options",
                    "write 'key: value'");
    for (const YamlMember& member : root.members) {
        const std::string where = place(member.line);
        set_option(options, member.key, option_texts(member.value, where + ": " + member.key),
                   where);
        sources[member.key] = where;
    }
}

void apply_flags(std::span<const GivenOption> given, const Visitable& options, Sources& sources) {
    for (const GivenOption& option : given) {
        set_option(options, option.name, option.values, flag(option.name));
        sources[option.name] = "flag";
    }
}

void check_required(const Visitable& options, const Sources& sources) {
    for (const OptionRecord& record : list_options(options)) {
        if (record.info.required && !sources.contains(record.info.name))
            throw Error(Exit::kUsage, flag(record.info.name), "is required", "see --help");
    }
}

}  // namespace thimble::cli
