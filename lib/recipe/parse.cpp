// SPDX-License-Identifier: Apache-2.0
// YAML -> Recipe: the schema's keys, one step per instance of a matrix, overrides.
#include <algorithm>
#include <set>

#include "cli/settings.h"
#include "core/error.h"
#include "core/strings.h"
#include "recipe/link.h"
#include "recipe/matrix.h"
#include "recipe/recipe.h"
#include "recipe/scope.h"

namespace thimble::recipe {
namespace {

using cli::YamlMember;
using cli::YamlNode;

class Parser {
  public:
    Parser(std::string_view file, const Overrides& overrides)
        : overrides_(overrides), hit_(overrides.steps.size()), scope_(std::string(file)) {
        recipe_.file = file;
    }

    Recipe run(const YamlNode& root) {
        check_keys(root, "a recipe", {"recipe", "description", "vars", "steps"});
        const YamlNode* format = root.find("recipe");
        if (format == nullptr || format->text != "1")
            throw bad(root.line, "is not a recipe of format 1", "begin with 'recipe: 1'");
        if (const YamlNode* text = root.find("description"))
            recipe_.description = scalar(*text, "description");
        scope_.read_variables(root.find("vars"), overrides_.variables);
        const YamlNode* steps = root.find("steps");
        if (steps == nullptr || !steps->is_list() || steps->items.empty())
            throw bad(steps == nullptr ? root.line : steps->line,
                      "'steps' must be a list of steps");
        for (const YamlNode& step : steps->items) read_step(step);
        check_overrides();
        link_steps(recipe_, explicit_needs_);
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
        return scalar_text(node, recipe_.at(node.line), what);
    }

    void read_step(const YamlNode& node) {
        check_keys(node, "a step",
                   {"id", "uses", "with", "needs", "matrix", "measure", "show", "assert"});
        const auto text_of = [&](const char* key) {
            const YamlNode* value = node.find(key);
            if (value == nullptr) throw bad(node.line, std::string("a step lacks '") + key + "'");
            return scalar(*value, std::string("'") + key + "'");
        };
        const std::string base = text_of("id");
        if (!is_name(base, "")) throw bad(node.line, "id '" + escaped(base) + "' is not a name");
        if (!names_.insert(base).second) throw bad(node.line, "id '" + base + "' is given twice");
        const YamlNode* axes = node.find("matrix");
        const Matrix matrix =
            axes == nullptr ? Matrix{{}, {Instance{}}} : read_matrix(*axes, scope_);
        for (const Instance& instance : matrix.instances) {
            Step step;
            step.base = base;
            step.id = axes == nullptr ? base : base + "[" + matrix.label(instance) + "]";
            if (axes != nullptr && !names_.insert(step.id).second)
                throw bad(node.line, "step '" + step.id + "' is given twice");
            step.line = node.line;
            read_uses(text_of("uses"), step);
            read_with(node.find("with"), instance, step);
            read_needs(node.find("needs"), instance, step);
            read_flags(node, instance, step);
            recipe_.steps.push_back(std::move(step));
            if (recipe_.steps.size() > kMaxSteps)
                throw bad(node.line, "more than " + std::to_string(kMaxSteps) + " steps");
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

    // Calls `change` with each override of this step's `key`, the last one last.
    void for_overrides(const Step& step, std::string_view key, const auto& change) {
        for (std::size_t i = 0; i < overrides_.steps.size(); ++i) {
            const StepOverride& o = overrides_.steps[i];
            if (o.key != key || (o.step != step.base && o.step != step.id)) continue;
            hit_[i] = true;
            change(o);
        }
    }

    void read_with(const YamlNode* with, const Instance& instance, Step& step) {
        if (with != nullptr && !with->is_map())
            throw bad(with->line, "'with' must be a map of options");
        for (const YamlMember& member :
             with == nullptr ? std::vector<YamlMember>{} : with->members) {
            StepOption option{member.key, recipe_.at(member.line), {}};
            const std::string place = option.where + ": " + escaped(member.key);
            for (const std::string& text : cli::option_texts(member.value, place))
                option.values.push_back(scope_.expand(text, instance, option.where));
            step.with.push_back(std::move(option));
        }
        for_overrides(step, "with", [&](const StepOverride& o) {
            std::erase_if(step.with, [&](const StepOption& s) { return s.name == o.option; });
            if (o.remove) return;
            StepOption option{o.option, o.where, {}};
            for (const std::string& text : o.texts)
                option.values.push_back(o.user ? scope_.expand_user(text, instance, o.where)
                                               : scope_.expand(text, instance, o.where));
            step.with.push_back(std::move(option));
        });
    }

    void read_needs(const YamlNode* needs, const Instance& instance, const Step& step) {
        explicit_needs_.emplace_back();
        if (needs == nullptr) return;
        if (!needs->is_list()) throw bad(needs->line, "'needs' must be a list of ids");
        for (const YamlNode& item : needs->items)
            explicit_needs_.back().push_back(
                scope_.expand(scalar(item, "an entry of 'needs'"), instance, recipe_.at(step.line))
                    .text);
    }

    // The texts of a key that is not an option, after overrides, and where they stand.
    struct Texts {
        std::vector<std::string> texts;
        std::string where;
    };
    Texts texts_of(const YamlNode& node, const char* key, const Step& step) {
        Texts found;
        if (const YamlNode* value = node.find(key)) {
            found.where = recipe_.at(value->line);
            found.texts = cli::option_texts(*value, found.where + ": " + key);
        }
        for_overrides(step, key, [&](const StepOverride& o) {
            found = {o.remove ? std::vector<std::string>{} : o.texts, o.where};
        });
        return found;
    }

    void read_flags(const YamlNode& node, const Instance& instance, Step& step) {
        const auto one_of = [&](const char* key, const std::string& first,
                                const std::string& second) {
            const Texts given = texts_of(node, key, step);
            if (given.texts.empty()) return std::string{};
            if (given.texts.size() > 1 || (given.texts[0] != first && given.texts[0] != second))
                throw Error(Exit::kUsage, given.where,
                            std::string("'") + key + "' must be " + first + " or " + second);
            return given.texts[0];
        };
        step.show = one_of("show", "true", "false") == "true";
        const std::string measure = one_of("measure", "once", "always");
        if (!measure.empty()) step.measure = measure == "once" ? Measure::kOnce : Measure::kAlways;
        const Texts gates = texts_of(node, "assert", step);
        for (const std::string& text : gates.texts)
            step.gates.emplace_back(scope_.expand(text, instance, gates.where).text, gates.where);
    }

    void check_overrides() const {
        const auto missed = std::find(hit_.begin(), hit_.end(), false);
        if (missed == hit_.end()) return;
        const StepOverride& o = overrides_.steps[static_cast<std::size_t>(missed - hit_.begin())];
        const std::vector<std::string> names(names_.begin(), names_.end());
        throw Error(Exit::kUsage, o.where, "unknown step '" + escaped(o.step) + "'",
                    did_you_mean(o.step, names));
    }

    Recipe recipe_;
    const Overrides& overrides_;
    std::vector<bool> hit_;  // by override of a step
    Scope scope_;
    std::set<std::string> names_;                           // ids, with and without their instances
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

Recipe parse_recipe(const cli::YamlNode& root, std::string_view file, const Overrides& overrides) {
    return Parser(file, overrides).run(root);
}

}  // namespace thimble::recipe
