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
    return make_leaf(optimizers(), spec, where);
}

std::vector<InlineForm> optimizer_forms() { return leaf_forms(optimizers()); }

}  // namespace thimble::train
