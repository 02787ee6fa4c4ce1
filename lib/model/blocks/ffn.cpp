// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward: norm, act(gate) * up, down, optional norm.
#include <algorithm>
#include <array>
#include <optional>

#include "model/block.h"

namespace thimble {
namespace {

class FfnBlock final : public Block {
  public:
    explicit FfnBlock(const BlockSpec& spec)
        : model_(spec.model),
          gate_(spec.unit.matrix("ffn_gate")),
          up_(spec.unit.matrix("ffn_up")),
          down_(spec.unit.matrix("ffn_down")),
          norm_(spec.unit.vector("ffn_norm")) {
        if (model_.post_norms) post_norm_ = spec.unit.vector("post_ffw_norm");
    }

    void forward(BlockCtx& ctx, View x) const override {
        const Exec& exec = ctx.exec;
        Workspace& workspace = *exec.workspace;
        const WorkspaceScope scope(workspace);
        const View h = workspace.take_view(exec.dtype(), x.rows, x.cols);
        const View gate = workspace.take_view(exec.dtype(), x.rows, model_.ffn);
        const View up = workspace.take_view(exec.dtype(), x.rows, model_.ffn);
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        const std::array problems = {ctx.weights.matrix(gate_).into(gate),
                                     ctx.weights.matrix(up_).into(up)};
        ctx.show({gate_, up_}, h);
        apply(exec, h, problems);
        ops::glu(exec, model_.gate, gate, up, gate);
        const Linear& down = ctx.weights.matrix(down_);
        ctx.show({down_}, gate);
        if (!post_norm_) {
            apply(exec, gate, std::array{down.onto(x)});
            return;
        }
        apply(exec, gate, std::array{down.into(h)});
        ops::rms_norm(exec, h, ctx.weights.vector(*post_norm_), model_.norm_epsilon, h);
        ops::add(exec, x, h, x);
    }

    std::size_t workspace_bytes(const BlockPlan& plan) const override {
        const auto bytes = [&](std::int64_t cols) {
            return view_bytes(plan.exec, plan.tokens, cols);
        };
        const std::size_t input =
            std::max(ops::matmul_input_bytes(plan.exec, plan.tokens, model_.hidden),
                     ops::matmul_input_bytes(plan.exec, plan.tokens, model_.ffn));
        return bytes(model_.hidden) + 2 * bytes(model_.ffn) + input;
    }

  private:
    const ModelSpec& model_;
    std::size_t gate_, up_, down_, norm_;
    std::optional<std::size_t> post_norm_;
};

}  // namespace

std::unique_ptr<Block> make_ffn_block(const BlockSpec& spec) {
    return std::make_unique<FfnBlock>(spec);
}

}  // namespace thimble
