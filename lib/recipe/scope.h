// SPDX-License-Identifier: Apache-2.0
// The names that a recipe's texts may refer to before its steps are known: variables, and within a
// step the values of its matrix.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "recipe/overrides.h"
#include "recipe/recipe.h"

namespace thimble::recipe {

// Letters, digits, '_', '-' and the characters of `more`; at most 64.
[[nodiscard]] bool is_name(std::string_view text, std::string_view more);
[[nodiscard]] std::vector<std::string> keys_of(const auto& map) {
    std::vector<std::string> keys;
    for (const auto& entry : map) keys.push_back(entry.first);
    return keys;
}

struct Choice {  // one value of one matrix axis
    std::string label;
    std::map<std::string, Value> members;
};
using Instance = std::map<std::string, Choice>;  // axis -> choice

// The text of a node; Error(kUsage) when it is not a scalar.
[[nodiscard]] std::string scalar_text(const cli::YamlNode& node, const std::string& where,
                                      const std::string& what);

class Scope {
  public:
    explicit Scope(std::string file) : file_(std::move(file)) {}
    [[nodiscard]] std::string at(int line) const { return file_ + ":" + std::to_string(line); }

    // `map`: the recipe's `vars`, or null.
    void read_variables(const cli::YamlNode* map,
                        const std::map<std::string, VariableOverride>& given);
    // Variables and matrix replaced; references to steps stay.
    [[nodiscard]] Value expand(const std::string& text, const Instance& instance,
                               const std::string& where) const;
    // A text from --set: where nothing is replaced, all of it is the user's.
    [[nodiscard]] Value expand_user(const std::string& text, const Instance& instance,
                                    const std::string& where) const;

  private:
    struct Variable {
        Value value;
        bool missing = false;
    };
    [[nodiscard]] Variable variable_from(const std::string& name, const VariableOverride& source);
    [[nodiscard]] Value variable(const std::string& name, const std::string& where) const;
    [[nodiscard]] static Value choice(const Instance& instance, const std::string& name,
                                      const std::string& where);

    std::string file_;
    std::map<std::string, Variable> variables_;
};

}  // namespace thimble::recipe
