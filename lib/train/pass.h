// SPDX-License-Identifier: Apache-2.0
// One forward and backward pass of a batch through the whole model. What backward needs of the
// forward pass is kept, or with checkpoints computed anew from the inputs of every so many layers:
// "Training Deep Nets with Sublinear Memory Cost" (2016).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/block.h"
#include "model/source.h"
#include "train/activation_store.h"
#include "train/loss_head.h"

namespace thimble::train {

struct PassOptions {
    // Layers between checkpoints; the layers behind the last checkpoint keep everything, and those
    // before it are computed twice. 0: no checkpoints, every layer keeps everything.
    std::int64_t checkpoint_layers = 1;
    // Checkpoints, or without them what every layer keeps, lie on a tier between forward and
    // backward. On a CUDA device only checkpoints can; without a tier they wait in host memory.
    bool activations_on_disk = false;
    LossKind loss = LossKind::kCut;
    std::int64_t most_tokens = 0;    // in a batch
    std::int64_t most_document = 0;  // tokens of the longest document; 0: as many as a batch
};

// Rows of whole documents, side by side.
struct Batch {
    std::span<const std::int32_t> tokens;
    std::span<const std::int32_t> targets;    // [tokens]; kNoTarget: none
    std::span<const std::int64_t> documents;  // lengths; their sum is the number of tokens
};

// What a pass holds besides weights and gradients, in bytes.
struct PassBytes {
    std::size_t workspace = 0;  // intermediates of one operation or layer
    std::size_t layer = 0;      // what one layer keeps for backward
    std::size_t residual = 0;   // the residual stream and its gradient
    // As the ledger counts them.
    ActivationBytes saved;        // what layers keep
    ActivationBytes checkpoints;  // inputs of segments
};

class Pass {
  public:
    // `exec` has a team; its workspace is the pass's own. Source and store live as long.
    Pass(const ModelSource& source, const Exec& exec, WeightStore& store,
         const PassOptions& options);
    ~Pass();

    // Before the first pass: what measure() said for these options. The tier is for activations on
    // disk, and lives as long.
    void allocate(const PassBytes& bytes, storage::StorageTier* tier = nullptr);
    // A pass of the most tokens with nothing computed; exec.dry, a store on paper.
    [[nodiscard]] static PassBytes measure(const ModelSource& source, Exec exec, WeightStore& store,
                                           GradientSink& sink, const PassOptions& options);

    // Gradients of scale * (sum of the targets' losses) into the sink. `judge` (optional) sees the
    // loss before the sink is told that any of them is done, and may throw.
    using Judge = std::function<void(const LossSums&)>;
    LossSums train(const Batch& batch, double scale, GradientSink& sink, const Judge& judge = {});
    // The losses alone.
    [[nodiscard]] LossSums evaluate(const Batch& batch);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble::train
