// SPDX-License-Identifier: Apache-2.0
// What the loss of a training step is made of: the rows that have a target, and their cross entropy
// over tiles of the vocabulary, one after the other. Views are in exec.dtype() but for statistics.
#pragma once

#include "ops/ops.h"

namespace thimble::ops {

// out[i] = x[rows[i]]; out: [rows, n].
void gather_rows(const Exec& exec, View x, std::span<const std::int32_t> rows, View out);

// Statistics of T rows, where exec computes: [T, 3] of F64: the largest logit so far, the sum of
// exp(logit - largest), the target's logit. Taken from the workspace, of no logits.
[[nodiscard]] View take_loss_stats(const Exec& exec, std::int64_t rows);

// Columns [first, first + z.cols) of all logits. A target outside them is another tile's.
struct LossTile {
    View z;  // [T, n]
    std::int64_t first = 0;
    std::span<const std::int32_t> targets;  // [T]
    View stats;
};
void add_loss_stats(const Exec& exec, const LossTile& tile);
// z to its gradient, with the statistics of all tiles: scale * (exp(z) / sum - [is target]).
void loss_gradient(const Exec& exec, const LossTile& tile, double scale);
// Of all rows, in nats: log(sum(exp(logits))) - the target's.
[[nodiscard]] double sum_of_losses(const Exec& exec, View stats);

}  // namespace thimble::ops
