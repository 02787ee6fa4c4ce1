// SPDX-License-Identifier: Apache-2.0
#include "recipe/scope.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"
#include "recipe/expand.h"

namespace thimble::recipe {
namespace {

// A text whose "${" is meant as it stands.
std::string escape_references(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text.substr(i).starts_with("${")) out += '$';
        out += text[i];
    }
    return out;
}

}  // namespace

bool is_name(std::string_view text, std::string_view more) {
    return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [&](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '-' || more.find(c) != std::string_view::npos;
    });
}

std::string scalar_text(const cli::YamlNode& node, const std::string& where,
                        const std::string& what) {
    if (!node.is_scalar()) throw Error(Exit::kUsage, where, what + " must be a text");
    return node.text;
}

void Scope::read_variables(const cli::YamlNode* map,
                           const std::map<std::string, VariableOverride>& given) {
    if (map != nullptr && !map->is_map())
        throw Error(Exit::kUsage, at(map->line), "'vars' must be a map");
    for (const cli::YamlMember& member :
         map == nullptr ? std::vector<cli::YamlMember>{} : map->members) {
        const std::string where = at(member.line);
        if (!is_name(member.key, ""))
            throw Error(Exit::kUsage, where, "'" + escaped(member.key) + "' is not a name");
        const auto other = given.find(member.key);
        VariableOverride source;
        if (other != given.end()) {
            source = other->second;
        } else {
            source.where = where;
            source.missing = member.value.kind == cli::YamlNode::Kind::kNull;
            if (!source.missing)
                source.text = scalar_text(member.value, where, "variable '" + member.key + "'");
        }
        variables_[member.key] = variable_from(member.key, source);
    }
    for (const auto& [name, source] : given)
        if (!variables_.contains(name))
            throw Error(Exit::kUsage, source.where,
                        file_ + " has no variable '" + escaped(name) + "'",
                        did_you_mean(name, keys_of(variables_)));
}

Scope::Variable Scope::variable_from(const std::string& name, const VariableOverride& source) {
    if (source.missing) return {{}, true};
    if (source.user) {
        std::string text = escape_references(source.text);
        const std::size_t bytes = text.size();
        return {{std::move(text), bytes}, false};
    }
    Value value = expand(source.text, {}, source.where);
    if (!references(value.text, source.where).empty())
        throw Error(Exit::kUsage, source.where, "variable '" + name + "' cannot refer to steps");
    return {std::move(value), false};
}

Value Scope::variable(const std::string& name, const std::string& where) const {
    const auto found = variables_.find(name);
    if (found == variables_.end())
        throw Error(Exit::kUsage, where, "unknown variable '" + escaped(name) + "'",
                    did_you_mean(name, keys_of(variables_)));
    if (found->second.missing)
        throw Error(Exit::kUsage, where, "variable '" + name + "' has no value",
                    "give one with --set " + name + "=...");
    return found->second.value;
}

Value Scope::choice(const Instance& instance, const std::string& name, const std::string& where) {
    const std::size_t dot = name.find('.');
    const std::string axis = name.substr(0, dot);
    const auto found = instance.find(axis);
    if (found == instance.end())
        throw Error(Exit::kUsage, where, "unknown matrix axis '" + escaped(axis) + "'",
                    did_you_mean(axis, keys_of(instance)));
    if (dot == std::string::npos) return {found->second.label, 0};
    const std::string member = name.substr(dot + 1);
    const auto value = found->second.members.find(member);
    if (value == found->second.members.end())
        throw Error(Exit::kUsage, where, "'" + axis + "' has no '" + escaped(member) + "'",
                    did_you_mean(member, keys_of(found->second.members)));
    return value->second;
}

Value Scope::expand(const std::string& text, const Instance& instance,
                    const std::string& where) const {
    Value value;
    const Lookup lookup = [&](const std::string& name) -> std::optional<std::string> {
        if (name.starts_with("steps.")) return std::nullopt;
        if (!name.starts_with("vars.") && !name.starts_with("matrix."))
            throw Error(Exit::kUsage, where, "unknown reference '${" + escaped(name) + "}'",
                        "write ${vars.x}, ${matrix.x} or ${steps.id.option}");
        Value found = name.starts_with("vars.") ? variable(name.substr(5), where)
                                                : choice(instance, name.substr(7), where);
        const std::size_t at = text.find("${" + name + "}");
        if (found.user_bytes > 0 && value.user_bytes == 0 && is_outermost(text, at)) {
            value.user_bytes = found.user_bytes;
            value.user_at = expand(text.substr(0, at), instance, where).text.size() + found.user_at;
        }
        return std::move(found.text);
    };
    value.text = recipe::expand(text, lookup, where);
    return value;
}

Value Scope::expand_user(const std::string& text, const Instance& instance,
                         const std::string& where) const {
    Value value = expand(text, instance, where);
    const std::size_t first = text.find("${");
    if (first != 0) {
        value.user_bytes = std::min(first, text.size());
        value.user_at = 0;
    }
    return value;
}

}  // namespace thimble::recipe
