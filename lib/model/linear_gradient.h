// SPDX-License-Identifier: Apache-2.0
// The backward pass of a Linear.
#pragma once

#include "model/gradient_sink.h"
#include "model/linear.h"

namespace thimble {

// A Linear and its place in the model.
struct LinearUse {
    const Linear& linear;
    UnitId unit;
    std::size_t index = 0;  // of the matrix within the unit
};
// From dy [T, out] to the gradients of the parameters that the sink wants, and to dx [T, in] where
// it is given: dx (+)= .... x: what the Linear was applied to.
void backward(const Exec& exec, const LinearUse& use, ops::MatmulInput& x, View dy,
              GradientSink& sink, const std::optional<View>& dx, bool accumulate);

}  // namespace thimble
