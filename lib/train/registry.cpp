// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>

#include "train/optimizer.h"

namespace thimble::train {

#define THIMBLE_OPTIMIZER(id) std::unique_ptr<OptimizerType> make_##id##_optimizer();
#include "train/optimizers.def"
#undef THIMBLE_OPTIMIZER

const Registry<OptimizerType>& optimizers() {
    static const Registry<OptimizerType> registry = [] {
        std::vector<std::unique_ptr<OptimizerType>> items;
#define THIMBLE_OPTIMIZER(id) items.push_back(make_##id##_optimizer());
#include "train/optimizers.def"
#undef THIMBLE_OPTIMIZER
        return Registry<OptimizerType>("optimizer", std::move(items));
    }();
    return registry;
}

std::unique_ptr<Optimizer> make_optimizer(std::string_view spec, std::string_view where) {
    const std::size_t colon = spec.find(':');
    const std::string_view options =
        colon == std::string_view::npos ? std::string_view{} : spec.substr(colon + 1);
    return optimizers().get(spec.substr(0, colon), where).make(options, where);
}

std::vector<InlineForm> optimizer_forms() {
    std::vector<InlineForm> forms;
    for (const auto& type : optimizers().items()) {
        forms.push_back({std::string(type->name()),
                         list_options([&](OptionVisitor& v) { type->visit_options(v); })});
    }
    return forms;
}

}  // namespace thimble::train
