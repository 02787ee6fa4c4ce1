// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "train/method.h"

namespace thimble::train {

#define THIMBLE_METHOD(id) std::unique_ptr<MethodType> make_##id##_method();
#include "train/methods.def"
#undef THIMBLE_METHOD

const Registry<MethodType>& methods() {
    static const Registry<MethodType> registry = [] {
        std::vector<std::unique_ptr<MethodType>> items;
#define THIMBLE_METHOD(id) items.push_back(make_##id##_method());
#include "train/methods.def"
#undef THIMBLE_METHOD
        return Registry<MethodType>("training method", std::move(items));
    }();
    return registry;
}

std::unique_ptr<Method> make_method(std::string_view spec, std::string_view where) {
    const std::size_t colon = spec.find(':');
    const std::string_view options =
        colon == std::string_view::npos ? std::string_view{} : spec.substr(colon + 1);
    return methods().get(spec.substr(0, colon), where).make(options, where);
}

std::vector<InlineForm> method_forms() {
    std::vector<InlineForm> forms;
    for (const auto& type : methods().items()) {
        forms.push_back({std::string(type->name()),
                         list_options([&](OptionVisitor& v) { type->visit_options(v); })});
    }
    return forms;
}

}  // namespace thimble::train
