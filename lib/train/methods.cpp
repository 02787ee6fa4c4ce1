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
    return make_leaf(methods(), spec, where);
}

std::vector<InlineForm> method_forms() { return leaf_forms(methods()); }

}  // namespace thimble::train
