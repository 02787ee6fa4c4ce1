// SPDX-License-Identifier: Apache-2.0
// The final norm, the head and the cross entropy of the next token, forward and backward, without
// the logits of a whole batch: "Cut Your Losses in Large-Vocabulary Language Models" (2024).
//
// Tokens are taken in blocks, the vocabulary in tiles. kCut: a first pass over the tiles finds
// log(sum(exp(logits))) of each token, a second computes the tiles anew and their gradients from
// it; memory is one tile. kChunked keeps a (smaller) block's logits of all tiles, 32 MiB of them,
// and computes none twice. kDense is kChunked with one block: what a plain implementation holds.
// differs: no tile is filtered out, so gradients are those of the dense computation but for the
// order of sums; results depend on the kind and the sizes of blocks alone, never on threads.
#pragma once

#include <span>

#include "model/gradient_sink.h"
#include "model/spec.h"
#include "train/data/batch_stream.h"

namespace thimble::train {

enum class LossKind : std::uint8_t { kCut, kChunked, kDense };

struct LossProblem {
    LossKind kind = LossKind::kCut;
    View x;                                 // [T, hidden]: what the last layer left
    std::span<const std::int32_t> targets;  // [T]; kNoTarget: none
    double epsilon = 0;                     // of the norm
    double scale = 1;  // of the loss in the gradient: 1 / (targets of the batch)
};
struct LossSums {
    double loss = 0;  // of all targets, in nats, not scaled
    std::int64_t targets = 0;
};

// Blocks that so many tokens are taken in, each of which needs the whole head.
[[nodiscard]] std::int64_t loss_blocks(LossKind kind, std::int64_t tokens,
                                       std::int64_t vocab) noexcept;

// The loss alone.
[[nodiscard]] LossSums loss_forward(const Exec& exec, const Lease& head, std::size_t norm,
                                    std::size_t output, const LossProblem& problem);
// And dx [T, hidden] = its gradient, and those of the head's parameters, which the sink is not told
// are done: so the loss can be judged before any of them is used.
[[nodiscard]] LossSums loss_backward(const Exec& exec, const Lease& head, std::size_t norm,
                                     std::size_t output, const LossProblem& problem,
                                     GradientSink& sink, View dx);

}  // namespace thimble::train
