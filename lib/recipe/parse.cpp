// SPDX-License-Identifier: Apache-2.0
// YAML -> Recipe: the schema's keys, variables, matrices, references between steps, order.
#include <algorithm>
#include <map>
#include <set>

#include "cli/settings.h"
#include "core/error.h"
#include "core/strings.h"
#include "recipe/expand.h"
#include "recipe/graph.h"
#include "recipe/recipe.h"

namespace thimble::recipe {
namespace {

using cli::YamlMember;
using cli::YamlNode;

constexpr std::size_t kMaxSteps = 1000;

bool is_name(std::string_view text, std::string_view more) {
    return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [&](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '-' || more.find(c) != std::string_view::npos;
    });
}

std::vector<std::string> keys_of(const auto& map) {
    std::vector<std::string> keys;
    for (const auto& entry : map) keys.push_back(entry.first);
    return keys;
}

// "steps.q[a].output" without "steps." -> {"q[a]", "output"}
std::pair<std::string, std::string> split_reference(const std::string& name) {
    const std::size_t bracket = name.find("].");
    const std::size_t dot = bracket == std::string::npos ? name.rfind('.') : bracket + 1;
    if (dot == std::string::npos) return {name, {}};
    return {name.substr(0, dot), name.substr(dot + 1)};
}

struct Choice {  // one value of one matrix axis
    std::string label;
    std::map<std::string, Value> members;
};
using Instance = std::map<std::string, Choice>;  // axis -> choice

class Parser {
  public:
    Parser(std::string_view file, const std::vector<std::string>& sets) : sets_(sets) {
        recipe_.file = file;
    }

    Recipe run(const YamlNode& root) {
        check_keys(root, "a recipe", {"recipe", "description", "vars", "steps"});
        const YamlNode* format = root.find("recipe");
        if (format == nullptr || format->text != "1")
            throw bad(root.line, "is not a recipe of format 1", "begin with 'recipe: 1'");
        if (const YamlNode* text = root.find("description"))
            recipe_.description = scalar(*text, "description");
        read_variables(root.find("vars"));
        const YamlNode* steps = root.find("steps");
        if (steps == nullptr || !steps->is_list() || steps->items.empty())
            throw bad(steps == nullptr ? root.line : steps->line,
                      "'steps' must be a list of steps");
        for (const YamlNode& step : steps->items) read_step(step);
        link();
        sort();
        for (Step& step : recipe_.steps) resolve(step);
        return std::move(recipe_);
    }

  private:
    [[nodiscard]] Error bad(int line, const std::string& what, const std::string& hint = {}) const {
        return {Exit::kUsage, recipe_.at(line), what, hint};
    }
    void check_keys(const YamlNode& map, const std::string& what,
                    const std::vector<std::string>& known) const {
        if (!map.is_map()) throw bad(map.line, what + " must be a map");
        for (const YamlMember& member : map.members) {
            if (std::find(known.begin(), known.end(), member.key) == known.end())
                throw bad(member.line, "unknown key '" + escaped(member.key) + "' in " + what,
                          did_you_mean(member.key, known));
        }
    }
    [[nodiscard]] std::string scalar(const YamlNode& node, const std::string& what) const {
        if (!node.is_scalar()) throw bad(node.line, what + " must be a text");
        return node.text;
    }

    struct Variable {
        Value value;
        bool missing = false;
    };

    void read_variables(const YamlNode* map) {
        std::map<std::string, std::string> given;
        for (const std::string& set : sets_) {
            const std::size_t equals = set.find('=');
            if (equals == std::string::npos)
                throw Error(Exit::kUsage, "--set", "'" + escaped(set) + "' is not key=value");
            given[set.substr(0, equals)] = set.substr(equals + 1);
        }
        if (map != nullptr && !map->is_map()) throw bad(map->line, "'vars' must be a map");
        for (const YamlMember& member : map == nullptr ? std::vector<YamlMember>{} : map->members) {
            if (!is_name(member.key, ""))
                throw bad(member.line, "'" + escaped(member.key) + "' is not a name");
            const auto set = given.find(member.key);
            Variable variable;
            if (set != given.end()) {
                variable.value = {set->second, set->second.size()};
                given.erase(set);
            } else if (member.value.kind == YamlNode::Kind::kNull) {
                variable.missing = true;
            } else {
                const std::string text = scalar(member.value, "variable '" + member.key + "'");
                variable.value = expand_early(text, {}, member.line);
                if (!references(variable.value.text, recipe_.at(member.line)).empty())
                    throw bad(member.line, "a variable cannot refer to steps");
            }
            variables_[member.key] = variable;
        }
        if (given.empty()) return;
        const std::string& key = given.begin()->first;
        throw Error(Exit::kUsage, "--set", recipe_.file + " has no variable '" + escaped(key) + "'",
                    did_you_mean(key, keys_of(variables_)));
    }

    [[nodiscard]] Value variable(const std::string& name, int line) const {
        const auto found = variables_.find(name);
        if (found == variables_.end())
            throw bad(line, "unknown variable '" + escaped(name) + "'",
                      did_you_mean(name, keys_of(variables_)));
        if (found->second.missing)
            throw bad(line, "variable '" + name + "' has no value",
                      "give one with --set " + name + "=...");
        return found->second.value;
    }
    [[nodiscard]] Value choice(const Instance& instance, const std::string& name, int line) const {
        const std::size_t dot = name.find('.');
        const std::string axis = name.substr(0, dot);
        const auto found = instance.find(axis);
        if (found == instance.end())
            throw bad(line, "unknown matrix axis '" + escaped(axis) + "'",
                      did_you_mean(axis, keys_of(instance)));
        if (dot == std::string::npos) return {found->second.label, 0};
        const std::string member = name.substr(dot + 1);
        const auto value = found->second.members.find(member);
        if (value == found->second.members.end())
            throw bad(line, "'" + axis + "' has no '" + escaped(member) + "'",
                      did_you_mean(member, keys_of(found->second.members)));
        return value->second;
    }

    // Variables and matrix; references to steps stay.
    [[nodiscard]] Value expand_early(const std::string& text, const Instance& instance,
                                     int line) const {
        std::size_t user_bytes = 0;
        const Lookup lookup = [&](const std::string& name) -> std::optional<std::string> {
            if (name.starts_with("steps.")) return std::nullopt;
            if (!name.starts_with("vars.") && !name.starts_with("matrix."))
                throw bad(line, "unknown reference '${" + escaped(name) + "}'",
                          "write ${vars.x}, ${matrix.x} or ${steps.id.option}");
            Value found = name.starts_with("vars.") ? variable(name.substr(5), line)
                                                    : choice(instance, name.substr(7), line);
            if (text.starts_with("${" + name + "}")) user_bytes = found.user_bytes;
            return std::move(found.text);
        };
        std::string expanded = expand(text, lookup, recipe_.at(line));
        return {std::move(expanded), user_bytes};
    }

    [[nodiscard]] std::vector<Instance> instances(const YamlNode* matrix) const {
        std::vector<Instance> all(1);
        if (matrix == nullptr) return all;
        if (!matrix->is_map() || matrix->members.empty())
            throw bad(matrix->line, "'matrix' must be a map of lists");
        for (const YamlMember& axis : matrix->members) {
            if (!is_name(axis.key, "") || !axis.value.is_list() || axis.value.items.empty())
                throw bad(axis.line, "a matrix axis must be a name with a list of values");
            std::vector<Instance> wider;
            for (const Instance& instance : all) {
                for (const YamlNode& item : axis.value.items) {
                    wider.push_back(instance);
                    wider.back()[axis.key] = read_choice(item);
                    if (wider.size() > kMaxSteps) throw too_many(axis.line);
                }
            }
            all = std::move(wider);
        }
        return all;
    }
    [[nodiscard]] Choice read_choice(const YamlNode& item) const {
        Choice choice;
        if (item.is_map()) {
            for (const YamlMember& member : item.members)
                choice.members[member.key] =
                    expand_early(scalar(member.value, "a matrix value"), {}, member.line);
            choice.label = choice.members.contains("name") ? choice.members["name"].text : "";
        } else {
            choice.label = scalar(item, "a matrix value");
        }
        if (!is_name(choice.label, ".+"))
            throw bad(item.line, "a matrix value must be a plain word or a map with such a 'name'");
        return choice;
    }
    [[nodiscard]] Error too_many(int line) const {
        return bad(line, "more than " + std::to_string(kMaxSteps) + " steps");
    }

    void read_step(const YamlNode& node) {
        check_keys(node, "a step", {"id", "uses", "with", "needs", "matrix", "measure", "show"});
        const auto text_of = [&](const char* key) {
            const YamlNode* value = node.find(key);
            if (value == nullptr) throw bad(node.line, std::string("a step lacks '") + key + "'");
            return scalar(*value, std::string("'") + key + "'");
        };
        const std::string base = text_of("id");
        if (!is_name(base, "")) throw bad(node.line, "id '" + escaped(base) + "' is not a name");
        if (!bases_.insert(base).second) throw bad(node.line, "id '" + base + "' is given twice");
        const YamlNode* matrix = node.find("matrix");
        for (const Instance& instance : instances(matrix)) {
            std::string label;
            if (matrix != nullptr) {
                for (const YamlMember& axis : matrix->members)
                    label += (label.empty() ? "" : ",") + instance.at(axis.key).label;
            }
            Step step;
            step.base = base;
            step.id = matrix == nullptr ? base : base + "[" + label + "]";
            if (!ids_.insert(step.id).second)
                throw bad(node.line, "step '" + step.id + "' is given twice");
            step.line = node.line;
            read_uses(text_of("uses"), step);
            read_with(node.find("with"), instance, step);
            read_needs(node.find("needs"), instance, step);
            read_flags(node, step);
            recipe_.steps.push_back(std::move(step));
            if (recipe_.steps.size() > kMaxSteps) throw too_many(node.line);
        }
    }

    void read_uses(const std::string& uses, Step& step) const {
        const std::size_t space = uses.find(' ');
        step.tool = uses.substr(0, space);
        if (space != std::string::npos) step.command = uses.substr(space + 1);
        if (!is_name(step.tool, "") || (!step.command.empty() && !is_name(step.command, "")))
            throw bad(step.line, "uses '" + escaped(uses) + "' is not a tool",
                      "write a tool's name, for example 'quantize' or 'evaluate report'");
    }

    void read_with(const YamlNode* with, const Instance& instance, Step& step) const {
        if (with == nullptr) return;
        if (!with->is_map()) throw bad(with->line, "'with' must be a map of options");
        for (const YamlMember& member : with->members) {
            const std::string where = recipe_.at(member.line) + ": " + escaped(member.key);
            StepOption option{member.key, member.line, {}};
            for (const std::string& text : cli::option_texts(member.value, where))
                option.values.push_back(expand_early(text, instance, member.line));
            step.with.push_back(std::move(option));
        }
    }

    void read_needs(const YamlNode* needs, const Instance& instance, const Step& step) {
        explicit_needs_.emplace_back();
        if (needs == nullptr) return;
        if (!needs->is_list()) throw bad(needs->line, "'needs' must be a list of ids");
        for (const YamlNode& item : needs->items)
            explicit_needs_.back().push_back(
                expand_early(scalar(item, "an entry of 'needs'"), instance, step.line).text);
    }

    void read_flags(const YamlNode& node, Step& step) const {
        if (const YamlNode* show = node.find("show")) {
            if (show->text != "true" && show->text != "false")
                throw bad(show->line, "'show' must be true or false");
            step.show = show->text == "true";
        }
        if (const YamlNode* measure = node.find("measure")) {
            if (measure->text != "once" && measure->text != "always")
                throw bad(measure->line, "'measure' must be once or always");
            step.measure = measure->text == "once" ? Measure::kOnce : Measure::kAlways;
        }
    }

    // The steps a reference names. "q[*]" and, in `needs`, a bare "q" mean all instances.
    [[nodiscard]] std::vector<std::size_t> steps_of(const std::string& id, int line) const {
        const bool star = id.ends_with("[*]");
        return recipe_.find(star ? id.substr(0, id.size() - 3) : id, recipe_.at(line));
    }

    void link() {
        for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
            Step& step = recipe_.steps[i];
            std::set<std::size_t> needs;
            for (const std::string& id : explicit_needs_[i])
                for (const std::size_t need : steps_of(id, step.line)) needs.insert(need);
            for (const StepOption& option : step.with) {
                for (const Value& value : option.values) {
                    for (const std::string& name :
                         references(value.text, recipe_.at(option.line))) {
                        const std::string id = split_reference(name.substr(6)).first;
                        for (const std::size_t need : steps_of(id, option.line)) needs.insert(need);
                    }
                }
            }
            step.needs.assign(needs.begin(), needs.end());
        }
    }

    void sort() {
        std::vector<std::vector<std::size_t>> needs;
        for (const Step& step : recipe_.steps) needs.push_back(step.needs);
        const Order order = topological_order(needs);
        if (!order.cycle.empty()) {
            std::string names;
            for (const std::size_t i : order.cycle) names += recipe_.steps[i].id + " needs ";
            throw bad(
                recipe_.steps[order.cycle.front()].line,
                "steps wait for each other: " + names + recipe_.steps[order.cycle.front()].id);
        }
        std::vector<std::size_t> place(order.order.size());
        for (std::size_t i = 0; i < order.order.size(); ++i) place[order.order[i]] = i;
        std::vector<Step> sorted;
        for (const std::size_t i : order.order) {
            Step step = std::move(recipe_.steps[i]);
            for (std::size_t& need : step.needs) need = place[need];
            std::sort(step.needs.begin(), step.needs.end());
            sorted.push_back(std::move(step));
        }
        recipe_.steps = std::move(sorted);
    }

    // Steps are in order, so what a reference names is final already.
    void resolve(Step& step) const {
        for (StepOption& option : step.with) {
            std::vector<Value> values;
            for (const Value& value : option.values) {
                for (Value& resolved : resolve_value(value, option.line)) {
                    resolved.text = unescape_references(resolved.text);
                    values.push_back(std::move(resolved));
                }
            }
            option.values = std::move(values);
        }
    }
    [[nodiscard]] const Value& value_of(std::size_t index, const std::string& key, int line) const {
        const Step& step = recipe_.steps[index];
        std::vector<std::string> names;
        for (const StepOption& option : step.with) {
            names.push_back(option.name);
            if (option.name != key) continue;
            if (option.values.size() == 1) return option.values.front();
            throw bad(line, "'" + escaped(key) + "' of step '" + step.id + "' is a list");
        }
        throw bad(line, "step '" + step.id + "' has no '" + escaped(key) + "'",
                  did_you_mean(key, names));
    }
    [[nodiscard]] std::vector<Value> resolve_value(const Value& value, int line) const {
        const std::string& text = value.text;
        const std::vector<std::string> names = references(text, recipe_.at(line));
        if (names.size() == 1 && text == "${" + names[0] + "}") {
            const auto [id, key] = split_reference(names[0].substr(6));
            const std::vector<std::size_t> steps = steps_of(id, line);
            if (!id.ends_with("[*]") && steps.size() > 1) throw several(id, line);
            std::vector<Value> values;
            for (const std::size_t step : steps) values.push_back(value_of(step, key, line));
            return values;
        }
        Value result = value;
        const Lookup lookup = [&](const std::string& name) -> std::optional<std::string> {
            const auto [id, key] = split_reference(name.substr(6));
            const std::vector<std::size_t> steps = steps_of(id, line);
            if (id.ends_with("[*]"))
                throw bad(line, "'[*]' must stand alone in its text: \"${" + name + "}\"");
            if (steps.size() > 1) throw several(id, line);
            const Value& found = value_of(steps.front(), key, line);
            if (text.starts_with("${" + name + "}")) result.user_bytes = found.user_bytes;
            return found.text;
        };
        result.text = expand(text, lookup, recipe_.at(line));
        return {result};
    }
    [[nodiscard]] Error several(const std::string& id, int line) const {
        return bad(line, "step '" + id + "' has several instances",
                   "write " + id + "[*] or one of them, " + id + "[...]");
    }

    Recipe recipe_;
    const std::vector<std::string>& sets_;
    std::map<std::string, Variable> variables_;
    std::set<std::string> bases_, ids_;
    std::vector<std::vector<std::string>> explicit_needs_;  // by step, as written
};

}  // namespace

const StepOption* Step::find(std::string_view option) const noexcept {
    for (const StepOption& candidate : with)
        if (candidate.name == option) return &candidate;
    return nullptr;
}

std::vector<std::size_t> Recipe::find(std::string_view id, std::string_view where) const {
    std::vector<std::size_t> found;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        names.push_back(steps[i].id);
        if (steps[i].base == id || steps[i].id == id) found.push_back(i);
    }
    if (found.empty())
        throw Error(Exit::kUsage, std::string(where), "unknown step '" + escaped(id) + "'",
                    did_you_mean(id, names));
    return found;
}

Recipe parse_recipe(const cli::YamlNode& root, std::string_view file,
                    const std::vector<std::string>& sets) {
    return Parser(file, sets).run(root);
}

}  // namespace thimble::recipe
