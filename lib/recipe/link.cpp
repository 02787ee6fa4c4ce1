// SPDX-License-Identifier: Apache-2.0
#include "recipe/link.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/strings.h"
#include "recipe/expand.h"
#include "recipe/graph.h"

namespace thimble::recipe {
namespace {

// "steps.q[a].output" without "steps." -> {"q[a]", "output"}
std::pair<std::string, std::string> split_reference(const std::string& name) {
    const std::size_t bracket = name.find("].");
    const std::size_t dot = bracket == std::string::npos ? name.rfind('.') : bracket + 1;
    if (dot == std::string::npos) return {name, {}};
    return {name.substr(0, dot), name.substr(dot + 1)};
}

// "q[a,*]", and "q[*]".
bool is_pattern(const std::string& id) {
    const std::size_t open = id.find('[');
    return open != std::string::npos && id.find('*', open) != std::string::npos;
}
// "q[a,b]": a and b.
std::vector<std::string> places_of(const std::string& id) {
    const std::size_t open = id.find('[');
    if (open == std::string::npos || !id.ends_with(']')) return {};
    return split(id.substr(open + 1, id.size() - open - 2), ',');
}

class Linker {
  public:
    Linker(Recipe& recipe, const std::vector<std::vector<std::string>>& needs)
        : recipe_(recipe), explicit_needs_(needs) {}

    void run() {
        link();
        sort();
        for (Step& step : recipe_.steps) resolve(step);
    }

  private:
    [[nodiscard]] static Error bad(const std::string& where, const std::string& what,
                                   const std::string& hint = {}) {
        return {Exit::kUsage, where, what, hint};
    }
    // The steps a reference names. "q[*]" and, in `needs`, a bare "q" mean all instances; "q[a,*]"
    // all whose first value is a.
    [[nodiscard]] std::vector<std::size_t> steps_of(const std::string& id,
                                                    const std::string& where) const {
        if (!is_pattern(id)) return recipe_.find(id, where);
        const std::vector<std::string> wanted = places_of(id);
        const std::vector<std::size_t> all = recipe_.find(id.substr(0, id.find('[')), where);
        if (wanted.size() == 1) return all;
        std::vector<std::size_t> found;
        for (const std::size_t step : all) {
            const std::vector<std::string> places = places_of(recipe_.steps[step].id);
            const auto same = [](const std::string& want, const std::string& is) {
                return want == "*" || want == is;
            };
            if (std::equal(wanted.begin(), wanted.end(), places.begin(), places.end(), same))
                found.push_back(step);
        }
        if (found.empty())
            throw bad(where, "no step is '" + escaped(id) + "'",
                      "one is '" + recipe_.steps[all.front()].id + "'");
        return found;
    }

    void link() {
        for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
            Step& step = recipe_.steps[i];
            std::set<std::size_t> needs;
            for (const std::string& id : explicit_needs_[i])
                for (const std::size_t need : steps_of(id, recipe_.at(step.line)))
                    needs.insert(need);
            for (const StepOption& option : step.with) {
                for (const Value& value : option.values) {
                    for (const std::string& name : references(value.text, option.where)) {
                        const std::string id = split_reference(name.substr(6)).first;
                        for (const std::size_t need : steps_of(id, option.where))
                            needs.insert(need);
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
            const Step& first = recipe_.steps[order.cycle.front()];
            throw bad(recipe_.at(first.line), "steps wait for each other: " + names + first.id);
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
                for (Value& resolved : resolve_value(value, option.where)) {
                    const std::string before = resolved.text.substr(0, resolved.user_at);
                    const std::string users =
                        resolved.text.substr(resolved.user_at, resolved.user_bytes);
                    resolved.user_at = unescape_references(before).size();
                    resolved.user_bytes = unescape_references(users).size();
                    resolved.text = unescape_references(resolved.text);
                    values.push_back(std::move(resolved));
                }
            }
            option.values = std::move(values);
        }
    }
    [[nodiscard]] const Value& value_of(std::size_t index, const std::string& key,
                                        const std::string& where) const {
        const Step& step = recipe_.steps[index];
        std::vector<std::string> names;
        for (const StepOption& option : step.with) {
            names.push_back(option.name);
            if (option.name != key) continue;
            if (option.values.size() == 1) return option.values.front();
            throw bad(where, "'" + escaped(key) + "' of step '" + step.id + "' is a list");
        }
        throw bad(where, "step '" + step.id + "' has no '" + escaped(key) + "'",
                  did_you_mean(key, names));
    }
    [[nodiscard]] std::vector<Value> resolve_value(const Value& value,
                                                   const std::string& where) const {
        const std::string& text = value.text;
        const std::vector<std::string> names = references(text, where);
        if (names.size() == 1 && text == "${" + names[0] + "}") {
            const auto [id, key] = split_reference(names[0].substr(6));
            const std::vector<std::size_t> steps = steps_of(id, where);
            if (!is_pattern(id) && steps.size() > 1) throw several(id, where);
            std::vector<Value> values;
            for (const std::size_t step : steps) values.push_back(value_of(step, key, where));
            return values;
        }
        const auto named = [&](const std::string& name) -> const Value& {
            const auto [id, key] = split_reference(name.substr(6));
            const std::vector<std::size_t> steps = steps_of(id, where);
            if (is_pattern(id))
                throw bad(where, "what means several steps must stand alone in its text: \"${" +
                                     name + "}\"");
            if (steps.size() > 1) throw several(id, where);
            return value_of(steps.front(), key, where);
        };
        const auto replaced = [&](std::size_t bytes) {
            return expand(
                text.substr(0, bytes),
                [&](const std::string& name) { return std::optional(named(name).text); }, where);
        };
        Value result{replaced(text.size()), value.user_bytes, replaced(value.user_at).size()};
        for (const std::string& name : names) {
            const std::size_t at = text.find("${" + name + "}");
            if (value.user_bytes > 0 && at > value.user_at) break;
            const Value& found = named(name);
            if (found.user_bytes == 0 || !is_outermost(text, at)) continue;
            result.user_bytes = found.user_bytes;
            result.user_at = replaced(at).size() + found.user_at;
            break;
        }
        return {result};
    }
    [[nodiscard]] static Error several(const std::string& id, const std::string& where) {
        return bad(where, "step '" + id + "' has several instances",
                   "write " + id + "[*] or one of them, " + id + "[...]");
    }

    Recipe& recipe_;
    const std::vector<std::vector<std::string>>& explicit_needs_;  // by step, as written
};

}  // namespace

void link_steps(Recipe& recipe, const std::vector<std::vector<std::string>>& needs) {
    Linker(recipe, needs).run();
}

}  // namespace thimble::recipe
