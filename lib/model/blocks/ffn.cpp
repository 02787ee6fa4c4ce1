// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward: norm, act(gate) * up, down, optional norm.
#include <algorithm>
#include <array>
#include <optional>

#include "model/block.h"
#include "ops/gradients.h"

namespace thimble {
namespace {

class FfnBlock final : public Block {
  public:
    explicit FfnBlock(const BlockSpec& spec)
        : model_(spec.model),
          gate_(spec.unit.matrix("ffn_gate")),
          up_(spec.unit.matrix("ffn_up")),
          down_(spec.unit.matrix("ffn_down")),
          norm_(spec.unit.vector("ffn_norm")),
          width_(spec.unit.matrices[up_].weight->rows()) {
        if (model_.post_norms) post_norm_ = spec.unit.vector("post_ffw_norm");
    }

    void forward(BlockCtx& ctx, View x) const override {
        const Exec& exec = ctx.exec;
        Workspace& workspace = *exec.workspace;
        const WorkspaceScope scope(workspace);
        if (ctx.saved) ops::copy(exec, x, ctx.keep(x.rows, x.cols));
        const View gate = ctx.keep(x.rows, width_), up = ctx.keep(x.rows, width_);
        const View h = workspace.take_view(exec.dtype(), x.rows, x.cols);
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        const std::array uses = {ctx.weights.matrix(gate_).into(gate),
                                 ctx.weights.matrix(up_).into(up)};
        ctx.show({gate_, up_}, h);
        apply(exec, h, uses);
        // The product may take the gate's place, unless that is kept.
        const View product = ctx.saved ? workspace.take_view(exec.dtype(), x.rows, width_) : gate;
        ops::glu(exec, model_.gate, gate, up, product);
        const Linear& down = ctx.weights.matrix(down_);
        ctx.show({down_}, product);
        if (!post_norm_) {
            apply(exec, product, std::array{down.onto(x)});
            return;
        }
        const View out = ctx.saved ? ctx.keep(x.rows, x.cols) : h;
        apply(exec, product, std::array{down.into(out)});
        ops::rms_norm(exec, out, ctx.weights.vector(*post_norm_), model_.norm_epsilon, h);
        ops::add(exec, x, h, x);
    }

    std::size_t saved_bytes(const Exec& exec, std::int64_t tokens) const override {
        return view_bytes(exec, tokens, model_.hidden) * (post_norm_ ? 2 : 1) +
               2 * view_bytes(exec, tokens, width_);
    }

    void backward(BackwardCtx& ctx, View dx) const override {
        const Exec& exec = ctx.exec;
        Workspace& workspace = *exec.workspace;
        const WorkspaceScope scope(workspace);
        const auto take = [&](std::int64_t cols) {
            return workspace.take_view(exec.dtype(), dx.rows, cols);
        };
        const View x = ctx.kept(dx.rows, dx.cols);
        const View gate = ctx.kept(dx.rows, width_), up = ctx.kept(dx.rows, width_);
        View dout = dx;
        if (post_norm_) {
            const View out = ctx.kept(dx.rows, dx.cols);
            dout = take(dx.cols);
            ops::copy(exec, dx, dout);
            ctx.norm_backward(*post_norm_, out, model_.norm_epsilon, dout, dout);
        }
        const View dproduct = take(width_);
        {
            const WorkspaceScope inner(workspace);
            const View product = take(width_);
            ops::glu(exec, model_.gate, gate, up, product);
            ops::MatmulInput input(exec, product);
            thimble::backward(exec, ctx.use(down_), input, dout, ctx.sink, dproduct, false);
        }
        ops::glu_backward(exec, model_.gate, gate, up, dproduct, gate, up);
        const View h = take(dx.cols), dh = take(dx.cols);
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        {
            ops::MatmulInput input(exec, h);
            thimble::backward(exec, ctx.use(gate_), input, gate, ctx.sink, dh, false);
            thimble::backward(exec, ctx.use(up_), input, up, ctx.sink, dh, true);
        }
        ctx.norm_backward(norm_, x, model_.norm_epsilon, dh, dx);
    }

    std::size_t workspace_bytes(const BlockPlan& plan) const override {
        const auto bytes = [&](std::int64_t cols) {
            return view_bytes(plan.exec, plan.tokens, cols);
        };
        const std::size_t input =
            std::max(ops::matmul_input_bytes(plan.exec, plan.tokens, model_.hidden),
                     ops::matmul_input_bytes(plan.exec, plan.tokens, width_));
        return bytes(model_.hidden) + 2 * bytes(width_) + input;
    }

  private:
    const ModelSpec& model_;
    std::size_t gate_, up_, down_, norm_;
    std::int64_t width_;  // of this layer
    std::optional<std::size_t> post_norm_;
};

}  // namespace

std::unique_ptr<Block> make_ffn_block(const BlockSpec& spec) {
    return std::make_unique<FfnBlock>(spec);
}

}  // namespace thimble
