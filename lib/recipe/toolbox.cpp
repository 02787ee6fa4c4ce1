// SPDX-License-Identifier: Apache-2.0
#include "recipe/toolbox.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/strings.h"
#include "recipe/child.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxSchemaBytes = std::size_t{4} << 20;

bool flag_of(const Json& entry, const char* key) {
    const Json* value = entry.find(key);
    return value != nullptr && value->is_bool() && value->as_bool(key);
}

std::string type_of(const Json& entry) {
    const Json* type = entry.find("type");
    return type == nullptr ? "" : type->as_string("type");
}

// Options whose values a schema does not describe by type are checked as any text.
class ValueSetter {
  public:
    ValueSetter(const std::string& name, const Json& entry) : entry_(entry) {
        info_.name = name.c_str();
        const Json* items = entry.find("items");
        const Json* choices = (items != nullptr ? items : &entry)->find("enum");
        if (choices != nullptr)
            for (const Json& choice : choices->as_array("enum"))
                info_.choices.push_back(choice.as_string("enum"));
        if (const Json* least = entry.find("minimum")) info_.least = least->as_double("minimum");
        if (const Json* most = entry.find("maximum")) info_.most = most->as_double("maximum");
    }
    // The values in the tool's own canonical text.
    std::vector<std::string> canonical(const std::vector<std::string>& texts,
                                       const std::string& where) {
        const std::string type = type_of(entry_);
        bool flag = false;
        std::int64_t whole = 0;
        double number = 0;
        std::string text;
        std::vector<std::string> list;
        const Visitable visit = [&](OptionVisitor& v) {
            if (type == "boolean") return v.option(info_, flag);
            if (type == "integer") return v.option(info_, whole);
            if (type == "number") return v.option(info_, number);
            if (type == "array") return v.option(info_, list);
            v.option(info_, text);
        };
        set_option(visit, info_.name, texts, where);
        return list_options(visit).front().values;
    }

  private:
    OptionInfo info_{};
    const Json& entry_;
};

bool is_default(const Json& entry, const std::vector<std::string>& values) {
    const Json* standard = entry.find("default");
    if (standard == nullptr) return false;
    if (standard->is_array()) return values.empty() && standard->as_array("default").empty();
    if (standard->is_string()) return values.front() == standard->as_string("default");
    if (standard->is_bool())
        return values.front() == (standard->as_bool("default") ? "true" : "false");
    return values.front() == standard->dump();
}

void append_flag(std::vector<std::string>& argv, const std::string& name, const std::string& type,
                 const std::string& value) {
    if (type == "boolean") {
        argv.push_back("--" + name + (value == "true" ? "" : "=false"));
    } else if (value.starts_with('-') && value.size() > 1) {
        argv.push_back("--" + name + "=" + value);
    } else {
        argv.push_back("--" + name);
        argv.push_back(value);
    }
}

}  // namespace

ToolDirectory ToolDirectory::beside_this_executable() {
    std::error_code failed;
    const fs::path self = fs::read_symlink("/proc/self/exe", failed);
    if (failed) throw Error(Exit::kFailure, "/proc/self/exe", failed.message());
    const bool installed = self.filename().string().starts_with("thimble-");
    return {self.parent_path().string(), installed ? "thimble-" : ""};
}

std::string ToolDirectory::path(std::string_view tool) const {
    return (fs::path(directory) / (prefix + std::string(tool))).string();
}

std::vector<std::string> ToolDirectory::names() const {
    std::vector<std::string> found;
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(directory, failed)) {
        const std::string file = entry.path().filename().string();
        if (file.starts_with(prefix) && entry.is_regular_file(failed) &&
            access(entry.path().c_str(), X_OK) == 0)
            found.push_back(file.substr(prefix.size()));
    }
    std::sort(found.begin(), found.end());
    return found;
}

std::string resolve_path(const Value& value, const Surroundings& surroundings, bool is_output,
                         std::string_view where) {
    if (value.text.empty()) return {};
    const fs::path path(value.text);
    const bool from_user = value.user_bytes > 0 && value.user_at == 0;
    const std::string written = value.text.substr(from_user ? value.user_bytes : 0);
    for (const fs::path& part : fs::path(written)) {
        if (part == "..")
            throw Error(Exit::kUsage, std::string(where),
                        "'" + escaped(value.text) + "' leaves the work directory",
                        "paths may not contain '..'");
    }
    if (path.is_absolute()) {
        if (is_output && !from_user)
            throw Error(Exit::kUsage, std::string(where),
                        "'" + escaped(value.text) + "' is absolute; outputs lie under --workdir",
                        "write a relative path and choose the directory with --workdir");
        return path.lexically_normal().string();
    }
    const fs::path base = from_user ? surroundings.caller_directory : surroundings.workdir;
    return (base / path).lexically_normal().string();
}

const Json& Toolbox::schema(const Recipe& recipe, const Step& step) {
    const std::string name = step.tool + (step.command.empty() ? "" : " " + step.command);
    const auto known = schemas_.find(name);
    if (known != schemas_.end()) return known->second;
    const std::string executable = directory_.path(step.tool);
    if (step.tool == "recipe" || access(executable.c_str(), X_OK) != 0) {
        throw Error(Exit::kUsage, recipe.at(step.line),
                    "no tool '" + step.tool + "' that a step could use",
                    did_you_mean(step.tool, directory_.names()));
    }
    std::optional<Json> schema = ask(step.tool, step.command);
    const Json* title = schema ? schema->find("title") : nullptr;
    if (title == nullptr || !title->is_string() || title->as_string("title") != name)
        throw Error(Exit::kUsage, recipe.at(step.line), "no command '" + name + "'",
                    "see " + step.tool + " --help");
    return schemas_.emplace(name, std::move(*schema)).first->second;
}

std::optional<Json> Toolbox::ask(const std::string& tool, const std::string& command) const {
    const std::string executable = directory_.path(tool);
    std::vector<std::string> argv = {executable};
    if (!command.empty()) argv.push_back(command);
    argv.push_back("--print-schema");
    std::string text;
    const auto take = [&](std::string_view part) {
        text += part;
        if (text.size() > kMaxSchemaBytes)
            throw Error(Exit::kFailure, executable, "prints a schema larger than 4 MiB");
    };
    const int code =
        run_child(argv, {.on_stdout = take, .pending_signal = {}, .quiet_stderr = true});
    if (code != 0) return std::nullopt;
    return parse_json(text, executable + " --print-schema");
}

std::map<std::string, Json> Toolbox::all_schemas() const {
    // Not whatever lies beside them: a directory may hold programs that are no tools.
    static const std::vector<std::string> kTools = {"compress", "evaluate", "offload-train",
                                                    "prune",    "quantize", "run"};
    std::map<std::string, Json> all;
    for (const std::string& tool : kTools) {
        if (access(directory_.path(tool).c_str(), X_OK) != 0) continue;
        std::optional<Json> schema = ask(tool, "");
        if (!schema) continue;
        const Json* commands = schema->find("x-commands");
        if (commands == nullptr) {  // no default command: all of them by name
            for (const auto& [name, one] : schema->as_members(tool)) all[tool + " " + name] = one;
            continue;
        }
        for (const Json& command : commands->as_array("x-commands")) {
            const std::string& name = command.as_string("x-commands");
            if (std::optional<Json> one = ask(tool, name)) all[tool + " " + name] = std::move(*one);
        }
        all[tool] = std::move(*schema);
    }
    return all;
}

namespace {

// Every option must be the tool's, and those it requires must be there.
void check_options(const Recipe& recipe, const Step& step, const Json& schema) {
    std::vector<std::string> names;
    for (const auto& [name, entry] : schema.find("properties")->as_members("properties"))
        names.push_back(name);
    for (const StepOption& option : step.with) {
        if (std::find(names.begin(), names.end(), option.name) == names.end())
            throw Error(Exit::kUsage, option.where,
                        step.tool + " has no option '" + escaped(option.name) + "'",
                        did_you_mean(option.name, names));
    }
    for (const Json& required : schema.find("required")->as_array("required")) {
        const std::string& name = required.as_string("required");
        if (step.find(name) == nullptr)
            throw Error(
                Exit::kUsage, recipe.at(step.line),
                "step '" + step.id + "' lacks '" + name + "', which " + step.tool + " requires");
    }
}

// One of the values in an inline text, with what of it came from --set.
Value inline_value(const Value& whole, const InlineOption& option, std::size_t begin) {
    const std::size_t at = begin + option.at, end = whole.user_at + whole.user_bytes;
    Value value{option.value, 0, 0};
    if (whole.user_at <= at && at < end) {
        const std::string users = "=" + whole.text.substr(at, end - at);
        value.user_bytes = split_inline_options(users).front().value.size();
    }
    return value;
}

// What "name:key=value,..." says with its input files resolved, and without their names.
struct InlineTexts {
    std::string resolved, keyed;
};
InlineTexts add_inline_inputs(StepCommand& result, const StepOption& option, const Value& value,
                              const Json& forms, const Surroundings& surroundings) {
    const std::size_t begin = value.text.find(':') + 1;  // 0: no colon
    const Json* keys = begin == 0 ? nullptr : forms.find(value.text.substr(0, begin - 1));
    if (keys == nullptr || begin == value.text.size()) return {value.text, value.text};
    std::vector<InlineOption> parts = split_inline_options(value.text.substr(begin));
    std::vector<InlineOption> nameless = parts;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const JsonArray& known = keys->as_array("x-inline-inputs");
        if (std::none_of(known.begin(), known.end(),
                         [&](const Json& key) { return key.as_string("key") == parts[i].key; }))
            continue;
        const std::string name = option.name + "." + parts[i].key;
        parts[i].value = resolve_path(inline_value(value, parts[i], begin), surroundings, false,
                                      option.where + ": " + name);
        nameless[i].value.clear();
        if (!parts[i].value.empty()) result.inputs.push_back({name, parts[i].value, option.where});
    }
    const std::string form = value.text.substr(0, begin);
    return {form + join_inline_options(parts), form + join_inline_options(nameless)};
}

void add_option(StepCommand& result, const StepOption& option, const Json& entry,
                const Surroundings& surroundings) {
    const std::string& name = option.name;
    const std::string where = option.where + ": " + name;
    const bool input = flag_of(entry, "x-input"), output = flag_of(entry, "x-output");
    const Json* forms = entry.find("x-inline-inputs");
    std::vector<std::string> texts, keyed;
    for (const Value& value : option.values) {
        if (forms != nullptr) {
            InlineTexts both = add_inline_inputs(result, option, value, *forms, surroundings);
            texts.push_back(std::move(both.resolved));
            keyed.push_back(std::move(both.keyed));
            continue;
        }
        keyed.push_back(value.text);
        texts.push_back(input || output ? resolve_path(value, surroundings, output, where)
                                        : value.text);
        const std::string& path = texts.back();
        if (path.empty()) continue;
        if (input) result.inputs.push_back({name, path, option.where});
        if (!output) continue;
        result.outputs.push_back({name, path, option.where});
        if (name != "json" && result.figures.empty() && path.ends_with(".json"))
            result.figures = path;
    }
    const std::vector<std::string> values = ValueSetter(name, entry).canonical(texts, where);
    for (const std::string& value : values) append_flag(result.argv, name, type_of(entry), value);
    if (name == "json") result.report = values.front();
    const bool matters = flag_of(entry, "x-changes-output") || output;
    if (!matters || is_default(entry, values)) return;
    Json list = Json::array();
    if (!input)
        for (const std::string& text : output || forms != nullptr ? keyed : values) list.push(text);
    result.key_options.set(name, list);
}

// The caller's own budget, threads and so on, unless the step has some.
void pass_on(StepCommand& result, const Step& step, const Json& properties,
             const cli::CommonOptions& common) {
    static const std::vector<std::string> kPassedOn = {"max-memory", "threads", "device", "cpu-isa",
                                                       "seed"};
    cli::CommonOptions copy = common;
    for (const OptionRecord& record : list_options([&](OptionVisitor& v) { copy.visit(v); })) {
        const std::string name = record.info.name;
        if (std::find(kPassedOn.begin(), kPassedOn.end(), name) == kPassedOn.end()) continue;
        const Json* entry = properties.find(name);
        if (entry == nullptr || step.find(name) != nullptr || is_default(*entry, record.values))
            continue;
        append_flag(result.argv, name, type_of(*entry), record.values.front());
        if (!flag_of(*entry, "x-changes-output")) continue;
        Json list = Json::array();
        list.push(record.values.front());
        result.key_options.set(name, list);
    }
}

}  // namespace

StepCommand Toolbox::command(const Recipe& recipe, const Step& step,
                             const Surroundings& surroundings) {
    const Json& tool_schema = schema(recipe, step);
    check_options(recipe, step, tool_schema);
    const Json& properties = *tool_schema.find("properties");
    StepCommand result;
    result.executable = directory_.path(step.tool);
    const Json* version = tool_schema.find("x-version");
    result.version = step.tool + (version == nullptr ? "" : " " + version->as_string("x-version"));
    result.argv = {result.executable};
    if (!step.command.empty()) result.argv.push_back(step.command);
    for (const auto& [name, entry] : properties.as_members("properties"))
        if (const StepOption* option = step.find(name))
            add_option(result, *option, entry, surroundings);
    pass_on(result, step, properties, *surroundings.common);
    if (result.figures.empty()) result.figures = result.report;
    result.can_replace =
        properties.find("overwrite") != nullptr && step.find("overwrite") == nullptr;
    return result;
}

}  // namespace thimble::recipe
