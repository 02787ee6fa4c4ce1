// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "core/error.h"
#include "prune/pruner.h"

namespace thimble::prune {

#define THIMBLE_PRUNER(id) std::unique_ptr<PrunerType> make_##id##_pruner();
#include "prune/methods.def"
#undef THIMBLE_PRUNER

const Registry<PrunerType>& pruners() {
    static const Registry<PrunerType> registry = [] {
        std::vector<std::unique_ptr<PrunerType>> items;
#define THIMBLE_PRUNER(id) items.push_back(make_##id##_pruner());
#include "prune/methods.def"
#undef THIMBLE_PRUNER
        return Registry<PrunerType>("pruning method", std::move(items));
    }();
    return registry;
}

std::unique_ptr<Pruner> make_pruner(std::string_view spec, std::string_view where) {
    return make_leaf(pruners(), spec, where);
}

std::vector<InlineForm> pruner_forms() { return leaf_forms(pruners()); }

Cut Pruner::cut(Calibration& calibration) const { return whole(calibration.source().config()); }

void Pruner::prune(const MatrixAtWork& matrix) const {
    throw Error(Exit::kFailure, std::string(matrix.name), "this method changes no weights");
}

std::size_t Pruner::prune_bytes(Shape2) const { return 0; }

}  // namespace thimble::prune
