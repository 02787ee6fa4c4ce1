// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward with gate and up in one matrix, the gate's rows first: norm, act(gate) * up,
// down.
#include <algorithm>
#include <array>

#include "model/block.h"

namespace thimble {
namespace {

class FusedFfnBlock final : public ForwardBlock {
  public:
    explicit FusedFfnBlock(const BlockSpec& spec)
        : model_(spec.model),
          gate_up_(spec.unit.matrix("ffn_gate_up")),
          down_(spec.unit.matrix("ffn_down")),
          norm_(spec.unit.vector("ffn_norm")),
          width_(spec.unit.matrices[down_].weight->cols()) {}

    void forward(BlockCtx& ctx, View x) const override {
        const Exec& exec = ctx.exec;
        Workspace& workspace = *exec.workspace;
        const WorkspaceScope scope(workspace);
        const View both = workspace.take_view(exec.dtype(), x.rows, 2 * width_);
        const View product = workspace.take_view(exec.dtype(), x.rows, width_);
        {
            const WorkspaceScope inner(workspace);
            const View h = workspace.take_view(exec.dtype(), x.rows, x.cols);
            ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
            ctx.show({gate_up_}, h);
            apply(exec, h, std::array{ctx.weights.matrix(gate_up_).into(both)});
        }
        ops::glu(exec, model_.gate, both.slice_cols(0, width_), both.slice_cols(width_, width_),
                 product);
        ctx.show({down_}, product);
        apply(exec, product, std::array{ctx.weights.matrix(down_).onto(x)});
    }

    std::size_t workspace_bytes(const BlockPlan& plan) const override {
        const bool coded = model_.input_norm_epsilon > 0;
        const std::size_t first = view_bytes(plan.exec, plan.tokens, model_.hidden) +
                                  apply_bytes(plan.exec, plan.tokens, model_.hidden, coded);
        return view_bytes(plan.exec, plan.tokens, 2 * width_) +
               view_bytes(plan.exec, plan.tokens, width_) +
               std::max(first, apply_bytes(plan.exec, plan.tokens, width_, coded));
    }

  private:
    const ModelSpec& model_;
    std::size_t gate_up_, down_, norm_;
    std::int64_t width_;  // of this layer
};

}  // namespace

std::unique_ptr<Block> make_fused_ffn_block(const BlockSpec& spec) {
    return std::make_unique<FusedFfnBlock>(spec);
}

}  // namespace thimble
