// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"
#include "model/architecture.h"
#include "model/block.h"

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

#define THIMBLE_BLOCK(name) std::unique_ptr<Block> make_##name##_block(const BlockSpec& spec);
#include "model/blocks.def"
#undef THIMBLE_BLOCK

std::unique_ptr<Block> make_block(std::string_view kind, const BlockSpec& spec) {
#define THIMBLE_BLOCK(name) \
    if (kind == #name) return make_##name##_block(spec);
#include "model/blocks.def"
#undef THIMBLE_BLOCK
    throw Error(Exit::kFailure, "model", "there is no block '" + std::string(kind) + "'");
}

}  // namespace thimble
