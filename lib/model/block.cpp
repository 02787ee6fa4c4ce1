// SPDX-License-Identifier: Apache-2.0
#include "model/block.h"

#include "core/error.h"
#include "ops/gradients.h"

namespace thimble {

void show_input(Tap& tap, const Exec& exec, const Lease& weights,
                std::span<const std::size_t> matrices, View x) {
    for (std::size_t i = 0; i < matrices.size();) {
        const WorkspaceScope scope(*exec.workspace);
        const Linear& linear = weights.matrix(matrices[i]);
        const std::size_t count = linear.coded ? 1 : matrices.size() - i;
        tap.input(weights.unit(), matrices.subspan(i, count), product_input(exec, linear, x));
        i += count;
    }
}

std::size_t ForwardBlock::saved_bytes(const Exec&, std::int64_t) const { return 0; }

void ForwardBlock::backward(BackwardCtx&, View) const {
    throw Error(Exit::kFailure, "model", "a block without a backward pass was asked for one");
}

void BackwardCtx::norm_backward(std::size_t vector, View x, double epsilon, View dy,
                                View dx) const {
    const ParameterId id{weights.unit(), ParameterId::Part::kVector, vector, 0};
    const std::optional<View> dweight = sink.gradient(id);
    ops::rms_norm_backward(exec, x, weights.vector(vector), epsilon, dy, dx,
                           dweight ? &*dweight : nullptr);
    if (dweight) sink.done(id);
}

}  // namespace thimble
