// SPDX-License-Identifier: Apache-2.0
#include "recipe/matrix.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::recipe {
namespace {

using cli::YamlMember;
using cli::YamlNode;

class Reader {
  public:
    Reader(const YamlNode& node, const Scope& scope) : node_(node), scope_(scope) {}

    Matrix run() {
        if (!node_.is_map() || node_.members.empty())
            throw bad(node_.line, "'matrix' must be a map of lists");
        const bool only_included = node_.find("include") != nullptr && node_.members.size() == 1;
        if (only_included) take_axes_of(*node_.find("include"));
        if (!only_included) matrix_.instances.resize(1);
        for (const YamlMember& member : node_.members)
            if (member.key != "include" && member.key != "exclude") multiply(member);
        if (const YamlNode* list = node_.find("exclude")) exclude(*list);
        if (const YamlNode* list = node_.find("include")) include(*list);
        if (matrix_.instances.empty() || matrix_.axes.empty())
            throw bad(node_.line, "'matrix' leaves no instance");
        return std::move(matrix_);
    }

  private:
    [[nodiscard]] Error bad(int line, const std::string& what, const std::string& hint = {}) const {
        return {Exit::kUsage, scope_.at(line), what, hint};
    }

    void multiply(const YamlMember& axis) {
        if (!is_name(axis.key, "") || !axis.value.is_list() || axis.value.items.empty())
            throw bad(axis.line, "a matrix axis must be a name with a list of values");
        matrix_.axes.push_back(axis.key);
        std::vector<Choice>& choices = choices_.emplace_back();
        for (const YamlNode& item : axis.value.items) choices.push_back(read_choice(item));
        if (matrix_.instances.size() * choices.size() > kMaxSteps)
            throw bad(axis.line, "more than " + std::to_string(kMaxSteps) + " steps");
        std::vector<Instance> wider;
        for (const Instance& instance : matrix_.instances) {
            for (const Choice& choice : choices) {
                wider.push_back(instance);
                wider.back()[axis.key] = choice;
            }
        }
        matrix_.instances = std::move(wider);
    }

    [[nodiscard]] Choice read_choice(const YamlNode& item) const {
        Choice choice;
        if (item.is_map()) {
            for (const YamlMember& member : item.members) {
                const std::string where = scope_.at(member.line);
                choice.members[member.key] =
                    scope_.expand(scalar_text(member.value, where, "a matrix value"), {}, where);
            }
            choice.label = choice.members.contains("name") ? choice.members["name"].text : "";
        } else {
            choice.label = scalar_text(item, scope_.at(item.line), "a matrix value");
        }
        if (!is_name(choice.label, ".+"))
            throw bad(item.line, "a matrix value must be a plain word or a map with such a 'name'");
        return choice;
    }

    void check_axes(const YamlNode& entry, const std::string& what) const {
        if (!entry.is_map() || entry.members.empty())
            throw bad(entry.line, "an entry of '" + what + "' must map axes to values");
        for (const YamlMember& member : entry.members) {
            if (std::find(matrix_.axes.begin(), matrix_.axes.end(), member.key) ==
                matrix_.axes.end())
                throw bad(member.line, "unknown matrix axis '" + escaped(member.key) + "'",
                          did_you_mean(member.key, matrix_.axes));
        }
    }
    [[nodiscard]] const std::vector<YamlNode>& entries(const YamlNode& list,
                                                       const std::string& what) const {
        if (!list.is_list()) throw bad(list.line, "'" + what + "' must be a list of maps");
        return list.items;
    }

    void exclude(const YamlNode& list) {
        for (const YamlNode& entry : entries(list, "exclude")) {
            check_axes(entry, "exclude");
            const std::size_t erased = std::erase_if(matrix_.instances, [&](const Instance& i) {
                return std::all_of(
                    entry.members.begin(), entry.members.end(), [&](const YamlMember& m) {
                        return i.at(m.key).label ==
                               scalar_text(m.value, scope_.at(m.line), "a value of 'exclude'");
                    });
            });
            if (erased == 0)
                throw bad(entry.line, "an entry of 'exclude' matches no instance of the matrix");
        }
    }

    void include(const YamlNode& list) {
        for (const YamlNode& entry : entries(list, "include")) {
            check_axes(entry, "include");
            Instance made;
            for (std::size_t i = 0; i < matrix_.axes.size(); ++i) {
                const YamlNode* value = entry.find(matrix_.axes[i]);
                if (value == nullptr)
                    throw bad(entry.line, "an entry of 'include' lacks '" + matrix_.axes[i] + "'");
                made[matrix_.axes[i]] = known_choice(i, read_choice(*value), value->is_map());
            }
            matrix_.instances.push_back(std::move(made));
            if (matrix_.instances.size() > kMaxSteps)
                throw bad(entry.line, "more than " + std::to_string(kMaxSteps) + " steps");
        }
    }
    // A plain word means the axis' own value of that name, with its members.
    [[nodiscard]] Choice known_choice(std::size_t axis, Choice read, bool is_map) const {
        if (is_map || axis >= choices_.size()) return read;
        for (const Choice& choice : choices_[axis])
            if (choice.label == read.label) return choice;
        return read;
    }
    void take_axes_of(const YamlNode& list) {
        const std::vector<YamlNode>& all = entries(list, "include");
        if (all.empty() || !all.front().is_map()) return;
        for (const YamlMember& member : all.front().members) {
            if (!is_name(member.key, ""))
                throw bad(member.line, "'" + escaped(member.key) + "' is not a name");
            matrix_.axes.push_back(member.key);
        }
    }

    const YamlNode& node_;
    const Scope& scope_;
    Matrix matrix_;
    std::vector<std::vector<Choice>> choices_;  // by axis
};

}  // namespace

std::string Matrix::label(const Instance& instance) const {
    std::string text;
    for (const std::string& axis : axes)
        text += (text.empty() ? "" : ",") + instance.at(axis).label;
    return text;
}

Matrix read_matrix(const cli::YamlNode& node, const Scope& scope) {
    return Reader(node, scope).run();
}

}  // namespace thimble::recipe
