// SPDX-License-Identifier: Apache-2.0
// What the folder's registries share: a registered kind of T, made from the options behind its
// name, "adamw:beta2=0.95".
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/registry.h"

namespace thimble {

template <class T>
class LeafType {
  public:
    virtual ~LeafType() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual std::string_view help() const = 0;
    // Visits an instance with the defaults: for --help and schemas.
    virtual void visit_options(OptionVisitor& v) const = 0;
    // `text` is "key=value,..." (may be empty).
    [[nodiscard]] virtual std::unique_ptr<T> make(std::string_view text,
                                                  std::string_view where) const = 0;
};

// The type of a leaf: a class with kName, kHelp, an Options struct and a constructor
// (Options, where) that throws Error(kUsage) on options that do not go together.
template <class T, class Leaf>
class LeafOf final : public LeafType<T> {
  public:
    [[nodiscard]] std::string_view name() const override { return Leaf::kName; }
    [[nodiscard]] std::string_view help() const override { return Leaf::kHelp; }
    void visit_options(OptionVisitor& v) const override { typename Leaf::Options{}.visit(v); }
    [[nodiscard]] std::unique_ptr<T> make(std::string_view text,
                                          std::string_view where) const override {
        typename Leaf::Options options;
        parse_inline_options(
            text, [&](OptionVisitor& v) { options.visit(v); }, where);
        return std::make_unique<Leaf>(options, where);
    }
};

template <class T>
[[nodiscard]] std::unique_ptr<T> make_leaf(const Registry<LeafType<T>>& registry,
                                           std::string_view spec, std::string_view where) {
    const std::size_t colon = spec.find(':');
    const std::string_view options =
        colon == std::string_view::npos ? std::string_view{} : spec.substr(colon + 1);
    return registry.get(spec.substr(0, colon), where).make(options, where);
}

// What such an option can be, for OptionInfo::inline_forms.
template <class T>
[[nodiscard]] std::vector<InlineForm> leaf_forms(const Registry<LeafType<T>>& registry) {
    std::vector<InlineForm> forms;
    for (const auto& type : registry.items()) {
        forms.push_back({std::string(type->name()),
                         list_options([&](OptionVisitor& v) { type->visit_options(v); })});
    }
    return forms;
}

}  // namespace thimble
