// SPDX-License-Identifier: Apache-2.0
#include "model/architecture.h"

namespace thimble {

#define THIMBLE_ARCHITECTURE(name) Architecture name##_architecture();
#include "model/architectures.def"
#undef THIMBLE_ARCHITECTURE

const Registry<Architecture>& architectures() {
    static const Registry<Architecture> registry = [] {
        std::vector<std::unique_ptr<Architecture>> items;
#define THIMBLE_ARCHITECTURE(name) \
    items.push_back(std::make_unique<Architecture>(name##_architecture()));
#include "model/architectures.def"
#undef THIMBLE_ARCHITECTURE
        return Registry<Architecture>("architecture", std::move(items));
    }();
    return registry;
}

}  // namespace thimble
