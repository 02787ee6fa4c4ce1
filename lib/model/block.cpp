// SPDX-License-Identifier: Apache-2.0
#include "model/block.h"

#include "ops/gradients.h"

namespace thimble {

void BackwardCtx::norm_backward(std::size_t vector, View x, double epsilon, View dy,
                                View dx) const {
    const ParameterId id{weights.unit(), ParameterId::Part::kVector, vector, 0};
    const std::optional<View> dweight = sink.gradient(id);
    ops::rms_norm_backward(exec, x, weights.vector(vector), epsilon, dy, dx,
                           dweight ? &*dweight : nullptr);
    if (dweight) sink.done(id);
}

}  // namespace thimble
