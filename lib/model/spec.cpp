// SPDX-License-Identifier: Apache-2.0
#include "model/spec.h"

namespace thimble {

ModelInfo ModelSpec::info() const {
    ModelInfo info;
    for (const AttentionSpec& a : attention) info.layers.push_back(a.shape);
    info.context_tokens = context_tokens;
    return info;
}

}  // namespace thimble
