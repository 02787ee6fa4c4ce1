// SPDX-License-Identifier: Apache-2.0
// The one way blocks multiply by weights: y = x W^T (+ bias). A Linear borrows its weights from a
// lease and is serialised with its tensors: <name>.weight and <name>.bias.
#pragma once

#include <optional>
#include <span>

#include "ops/ops.h"

namespace thimble {

struct Linear {
    PackedView weight;         // [out, in]
    std::optional<View> bias;  // [1, out]

    [[nodiscard]] std::int64_t in() const noexcept { return weight.shape.cols; }
    [[nodiscard]] std::int64_t out() const noexcept { return weight.shape.rows; }
    // y = this(x); y: [T, out].
    [[nodiscard]] ops::Matmul into(View y) const { return {weight, y, bias, false}; }
    // y += this(x)
    [[nodiscard]] ops::Matmul onto(View y) const { return {weight, y, bias, true}; }
};

// Runs applications of Linears that share one input; x: [T, in].
inline void apply(const Exec& exec, View x, std::span<const ops::Matmul> problems) {
    ops::MatmulInput input(exec, x);
    ops::matmul(exec, input, problems);
}

}  // namespace thimble
