// SPDX-License-Identifier: Apache-2.0
#include "cli/describe.h"

#include <algorithm>
#include <charconv>

#include "core/strings.h"

namespace thimble::cli {
namespace {

constexpr std::size_t kHelpColumn = 34, kHelpWidth = 100;

const char* type_name(OptionType type) {
    switch (type) {
        case OptionType::kBool:
            return "boolean";
        case OptionType::kInt:
            return "integer";
        case OptionType::kDouble:
            return "number";
        case OptionType::kString:
            return "string";
        case OptionType::kList:
            return "array";
    }
    return "string";
}

Json typed_value(OptionType type, const std::string& text) {
    const char* end = text.data() + text.size();
    if (type == OptionType::kBool) return text == "true";
    if (type == OptionType::kInt) {
        std::int64_t value = 0;
        std::from_chars(text.data(), end, value);
        return value;
    }
    if (type == OptionType::kDouble) {
        double value = 0;
        std::from_chars(text.data(), end, value);
        return value;
    }
    return text;
}

Json record_value(const OptionRecord& record) {
    if (record.type != OptionType::kList) return typed_value(record.type, record.values.front());
    Json list = Json::array();
    for (const std::string& value : record.values) list.push(value);
    return list;
}

std::string placeholder(const OptionRecord& record) {
    if (record.type == OptionType::kBool) return {};
    if (*record.info.value != 0) return record.info.value;
    if (!record.info.choices.empty()) {
        std::string all;
        for (const std::string& c : record.info.choices) all += (all.empty() ? "" : "|") + c;
        if (all.size() <= 20) return all;
    }
    switch (record.type) {
        case OptionType::kInt:
            return "N";
        case OptionType::kDouble:
            return "X";
        default:
            return "TEXT";
    }
}

std::string flags_of(const OptionRecord& record) {
    std::string text = record.info.letter != 0 ? std::string("-") + record.info.letter + ", " : "";
    if (*record.info.also != 0) {
        for (const std::string& alias : split(record.info.also, ','))
            text += (alias.size() <= 3 ? "-" : "--") + alias + ", ";
    }
    text += std::string("--") + record.info.name;
    const std::string value = placeholder(record);
    return value.empty() ? text : text + " " + value;
}

// Appends `text` from `column` on, wrapped at kHelpWidth.
void append_wrapped(std::string& out, std::size_t column, std::string_view text) {
    std::size_t at = column;
    for (const std::string& word : split(text, ' ')) {
        if (at > column && at + 1 + word.size() > kHelpWidth) {
            out += "\n" + std::string(column, ' ');
            at = column;
        }
        if (at > column) out += ' ', ++at;
        out += word;
        at += word.size();
    }
    out += '\n';
}

void append_option(std::string& out, const OptionRecord& record) {
    const std::string flags = "  " + flags_of(record);
    out += flags;
    if (flags.size() + 2 > kHelpColumn) {
        out += "\n" + std::string(kHelpColumn, ' ');
    } else {
        out += std::string(kHelpColumn - flags.size(), ' ');
    }
    std::string help = record.info.help;
    if (!record.info.choices.empty() && placeholder(record).find('|') == std::string::npos) {
        help += ": ";
        for (const std::string& c : record.info.choices)
            help += (c == record.info.choices.front() ? "" : ", ") + c;
    }
    if (record.info.required) help += " (required)";
    const bool shown = record.type == OptionType::kInt || record.type == OptionType::kDouble ||
                       record.type == OptionType::kString;
    if (shown && !record.info.required && !record.values.front().empty())
        help += " [" + record.values.front() + "]";
    if (record.type == OptionType::kBool && record.values.front() == "true")
        help += std::string(" [on; --no-") + record.info.name + "]";
    if (record.type == OptionType::kList && !record.info.positional) help += "; may be repeated";
    append_wrapped(out, kHelpColumn, help);
}

std::string usage_line(const std::string& name, std::span<const OptionRecord> records) {
    std::string line = "Usage: " + name;
    std::string tail;
    for (const OptionRecord& record : records) {
        const std::string value = placeholder(record);
        const std::string dots = record.type == OptionType::kList ? "..." : "";
        if (record.info.positional) {
            const std::string word = (*record.info.value != 0 ? value : record.info.name) + dots;
            tail += record.info.required ? " " + word : " [" + word + "]";
        } else if (record.info.required) {
            line += std::string(" --") + record.info.name + " " + value;
        }
    }
    return line + " [options]" + tail + "\n";
}

void append_commands(std::string& out, std::span<const Command> commands) {
    bool any = false;
    for (const Command& command : commands) {
        if (command.name.empty()) continue;
        if (!any) out += "\nCommands (first argument):\n";
        any = true;
        std::string line = "  " + command.name;
        line += std::string(std::max<std::size_t>(kHelpColumn, line.size() + 2) - line.size(), ' ');
        out += line;
        append_wrapped(out, kHelpColumn, command.help);
    }
}

void append_epilog(std::string& out, const ToolInfo& tool) {
    if (!tool.epilog.empty()) out += "\n" + tool.epilog + (tool.epilog.back() == '\n' ? "" : "\n");
    out +=
        "\nAny option can stand in a --config file (without the dashes) or in the environment "
        "as\n" +
        environment_name(tool.name, "<OPTION>") +
        ".\nExit codes: 0 done, 1 failure, 2 usage, 3 gate failed, 65 bad data, 66 no input, "
        "73 cannot create\noutput, 74 I/O error, 75 run again, 77 over the memory budget.\n";
}

// By name of the form, the keys whose values are input files.
Json inline_inputs(const OptionInfo& info) {
    Json forms = Json::object();
    if (info.inline_forms == nullptr) return forms;
    for (const InlineForm& form : info.inline_forms()) {
        Json keys = Json::array();
        for (const OptionRecord& record : form.options)
            if (record.info.is_input) keys.push(record.info.name);
        if (!keys.as_array("keys").empty()) forms.set(form.name, keys);
    }
    return forms;
}

}  // namespace

std::string full_name(const ToolInfo& tool, const Command& command) {
    return command.name.empty() ? tool.name : tool.name + " " + command.name;
}

std::string help_text(const ToolInfo& tool, std::span<const Command> commands) {
    std::string out =
        tool.name + ": " + tool.summary + "\n\nUsage: " + tool.name + " COMMAND [options]\n";
    append_commands(out, commands);
    out += "\n'" + tool.name + " COMMAND --help' lists a command's options.\n";
    append_epilog(out, tool);
    return out;
}

std::string help_text(const ToolInfo& tool, std::span<const Command> commands,
                      const Command& command, std::span<const OptionRecord> records) {
    const std::string name = full_name(tool, command);
    const std::string& summary = command.name.empty() ? tool.summary : command.help;
    std::string out = name + ": " + summary + "\n\n" + usage_line(name, records);
    if (!command.flag.empty()) out += "Also " + tool.name + " " + command.flag + " ...\n";
    std::string heading = "\n";  // differs from every real one
    for (const OptionRecord& record : records) {
        if (record.group != heading) {
            heading = record.group;
            out += "\n" + (heading.empty() ? std::string("Options") : heading) + ":\n";
        }
        append_option(out, record);
    }
    if (command.name.empty()) append_commands(out, commands);
    append_epilog(out, tool);
    return out;
}

Json option_schema(const ToolInfo& tool, const Command& command,
                   std::span<const OptionRecord> records) {
    Json properties = Json::object(), required = Json::array();
    for (const OptionRecord& record : records) {
        const OptionInfo& info = record.info;
        Json entry = Json::object(), element = Json::object();
        Json& typed = record.type == OptionType::kList ? element : entry;
        entry.set("description", info.help);
        if (record.type == OptionType::kList) element.set("type", "string");
        entry.set("type", type_name(record.type));
        if (!info.choices.empty()) {
            Json choices = Json::array();
            for (const std::string& choice : info.choices) choices.push(choice);
            typed.set("enum", choices);
        }
        if (info.least > -1e300) entry.set("minimum", info.least);
        if (info.most < 1e300) entry.set("maximum", info.most);
        if (record.type == OptionType::kList) entry.set("items", element);
        if (!info.required) entry.set("default", record_value(record));
        if (info.is_input) entry.set("x-input", true);
        const Json forms = inline_inputs(info);
        if (!forms.as_members("forms").empty()) entry.set("x-inline-inputs", forms);
        if (info.is_output) entry.set("x-output", true);
        entry.set("x-changes-output", info.changes_output);
        if (*info.also != 0) {
            Json names = Json::array();
            for (const std::string& alias : split(info.also, ',')) names.push(alias);
            entry.set("x-aliases", names);
        }
        properties.set(info.name, entry);
        if (info.required) required.push(info.name);
    }
    Json schema = Json::object();
    schema.set("$schema", "https://json-schema.org/draft/2020-12/schema");
    schema.set("title", full_name(tool, command));
    schema.set("description", command.help);
    schema.set("x-version", version());
    schema.set("type", "object");
    schema.set("properties", properties);
    schema.set("required", required);
    schema.set("additionalProperties", false);
    return schema;
}

std::string config_text(std::span<const OptionRecord> records, const Sources& sources) {
    std::string out;
    for (const OptionRecord& record : records) {
        std::string line = std::string(record.info.name) + ": ";
        if (record.type == OptionType::kList) {
            std::string items;
            for (const std::string& value : record.values)
                items += (items.empty() ? "" : ", ") + yaml_scalar(value);
            line += "[" + items + "]";
        } else {
            line += yaml_scalar(record.values.front());
        }
        const auto source = sources.find(record.info.name);
        if (line.size() < 40) line.append(40 - line.size(), ' ');
        out += line + "  # " + (source == sources.end() ? "default" : source->second) + "\n";
    }
    return out;
}

Json option_values(std::span<const OptionRecord> records) {
    Json values = Json::object();
    for (const OptionRecord& record : records) values.set(record.info.name, record_value(record));
    return values;
}

std::string list_text(const Json& names) {
    if (!names.is_object()) return {};
    std::string out;
    for (const auto& [kind, list] : names.as_members("list")) {
        out += kind + ":";
        for (const Json& name : list.as_array("list"))
            out += " " + (name.is_string() ? name.as_string("list") : name.dump());
        out += "\n";
    }
    return out;
}

}  // namespace thimble::cli
