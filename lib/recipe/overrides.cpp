// SPDX-License-Identifier: Apache-2.0
#include "recipe/overrides.h"

#include <algorithm>

#include "cli/settings.h"
#include "core/error.h"
#include "core/strings.h"

namespace thimble::recipe {
namespace {

using cli::YamlMember;
using cli::YamlNode;

const std::vector<std::string> kStepKeys = {"with", "measure", "show", "assert"};

Error unknown(const std::string& where, const std::string& key, const std::string& what,
              const std::vector<std::string>& known) {
    return {Exit::kUsage, where, "unknown key '" + escaped(key) + "' in " + what,
            did_you_mean(key, known)};
}

void check_step_key(const std::string& key, const std::string& where) {
    if (std::find(kStepKeys.begin(), kStepKeys.end(), key) == kStepKeys.end())
        throw unknown(where, key, "what can be set of a step", kStepKeys);
}

// "q4.with.format" or "q[a.b,c].measure"
StepOverride step_path(const std::string& path, const std::string& where) {
    const std::size_t bracket = path.find('['), close = path.find("].");
    const std::size_t dot =
        bracket < path.find('.') && close != std::string::npos ? close + 1 : path.find('.');
    if (dot == std::string::npos)
        throw Error(Exit::kUsage, where, "names no key of step '" + escaped(path) + "'",
                    "write steps.ID.with.OPTION=VALUE");
    StepOverride made;
    made.where = where;
    made.step = path.substr(0, dot);
    const std::string rest = path.substr(dot + 1);
    made.key = rest.substr(0, rest.find('.'));
    check_step_key(made.key, where);
    const bool has_option = rest.size() > made.key.size() + 1;
    if ((made.key == "with") != has_option)
        throw Error(Exit::kUsage, where,
                    made.key == "with" ? "names no option" : "'" + made.key + "' has no keys",
                    "write steps.ID.with.OPTION=VALUE");
    if (has_option) made.option = rest.substr(made.key.size() + 1);
    return made;
}

void read_set(const std::string& set, Overrides& all) {
    const std::size_t equals = set.find('=');
    if (equals == std::string::npos)
        throw Error(Exit::kUsage, "--set", "'" + escaped(set) + "' is not key=value");
    const std::string path = set.substr(0, equals), text = set.substr(equals + 1);
    const std::string where = "--set " + escaped(path);
    const std::string root = path.substr(0, path.find('.'));
    if (root == path || root == "vars") {
        const std::string name = root == path ? path : path.substr(root.size() + 1);
        all.variables[name] = {text, "--set", false, true};
        return;
    }
    if (root != "steps") throw unknown("--set", root, "'" + escaped(path) + "'", {"vars", "steps"});
    StepOverride made = step_path(path.substr(root.size() + 1), where);
    made.user = true;
    // The same path given again adds to a list.
    for (StepOverride& before : all.steps) {
        if (!before.user || before.where != made.where) continue;
        before.texts.push_back(text);
        return;
    }
    made.texts = {text};
    all.steps.push_back(std::move(made));
}

void read_overlay_step(const YamlMember& step, const auto& at, Overrides& all) {
    if (!step.value.is_map())
        throw Error(Exit::kUsage, at(step.line), "'" + escaped(step.key) + "' must be a map");
    const auto add = [&](const std::string& key, const std::string& option,
                         const YamlMember& member) {
        StepOverride made;
        made.step = step.key;
        made.key = key;
        made.option = option;
        made.where = at(member.line);
        made.remove = member.value.kind == YamlNode::Kind::kNull;
        if (!made.remove) made.texts = cli::option_texts(member.value, made.where);
        all.steps.push_back(std::move(made));
    };
    for (const YamlMember& member : step.value.members) {
        check_step_key(member.key, at(member.line));
        if (member.key != "with") {
            add(member.key, "", member);
            continue;
        }
        if (!member.value.is_map())
            throw Error(Exit::kUsage, at(member.line), "'with' must be a map of options");
        for (const YamlMember& option : member.value.members) add("with", option.key, option);
    }
}

void read_overlay(const Overlay& overlay, Overrides& all) {
    const auto at = [&](int line) { return overlay.file + ":" + std::to_string(line); };
    if (overlay.root.kind == YamlNode::Kind::kNull) return;
    if (!overlay.root.is_map())
        throw Error(Exit::kUsage, at(overlay.root.line), "an overlay must be a map");
    for (const YamlMember& part : overlay.root.members) {
        if (part.key != "vars" && part.key != "steps")
            throw unknown(at(part.line), part.key, "an overlay", {"vars", "steps"});
        if (!part.value.is_map())
            throw Error(Exit::kUsage, at(part.line), "'" + part.key + "' must be a map");
        for (const YamlMember& member : part.value.members) {
            if (part.key == "steps") {
                read_overlay_step(member, at, all);
                continue;
            }
            const bool missing = member.value.kind == YamlNode::Kind::kNull;
            if (!missing && !member.value.is_scalar())
                throw Error(Exit::kUsage, at(member.line), "a variable must be a text");
            all.variables[member.key] = {member.value.text, at(member.line), missing, false};
        }
    }
}

}  // namespace

Overrides read_overrides(const std::vector<std::string>& sets,
                         const std::vector<Overlay>& overlays) {
    Overrides all;
    for (const Overlay& overlay : overlays) read_overlay(overlay, all);
    for (const std::string& set : sets) read_set(set, all);
    return all;
}

}  // namespace thimble::recipe
