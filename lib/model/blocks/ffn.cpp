// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward: norm, act(gate) * up, down, optional norm. With thresholds, channels whose
// activations are small are dropped: "CHESS: Optimizing LLM Inference via Channel-Wise Thresholding
// and Selective Sparsification" (2024). Which ones does not depend on how many tokens there are; a
// few tokens skip their rows of up and down, more of them meet all rows and zeros.
#include <algorithm>
#include <array>
#include <optional>

#include "model/block.h"
#include "ops/gradients.h"
#include "ops/kept.h"

namespace thimble {
namespace {

// Tokens of a step that are taken one by one. More of them want most rows between them, and pay for
// packing the weights anew.
constexpr std::int64_t kMostAlone = 8;

class FfnBlock final : public Block {
  public:
    explicit FfnBlock(const BlockSpec& spec)
        : model_(spec.model),
          gate_(spec.unit.matrix("ffn_gate")),
          up_(spec.unit.matrix("ffn_up")),
          down_(spec.unit.matrix("ffn_down")),
          norm_(spec.unit.vector("ffn_norm")),
          thresholds_(spec.unit.find_vector("ffn_thresholds")),
          up_layout_(spec.unit.matrices[up_].weight->layout()),
          down_layout_(spec.unit.matrices[down_].weight->layout()),
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
        if (skips(ctx, x.rows)) return forward_kept(ctx, x, h, gate);
        const std::array uses = {ctx.weights.matrix(gate_).into(gate),
                                 ctx.weights.matrix(up_).into(up)};
        ctx.show({gate_, up_}, h);
        apply(exec, h, uses);
        if (ctx.tap) ctx.tap->gated(exec, ctx.weights.unit(), gate, up);
        // The product may take the gate's place, unless that is kept.
        const View product = ctx.saved ? workspace.take_view(exec.dtype(), x.rows, width_) : gate;
        if (thresholds_) {
            ops::glu_above(exec, model_.gate, gate, up, ctx.weights.vector(*thresholds_), product);
        } else {
            ops::glu(exec, model_.gate, gate, up, product);
        }
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

    [[nodiscard]] bool trains() const override { return !thresholds_; }

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
        return bytes(model_.hidden) + 2 * bytes(width_) + input + skipping(plan);
    }

  private:
    [[nodiscard]] bool skips(const BlockCtx& ctx, std::int64_t tokens) const {
        return thresholds_ && tokens <= kMostAlone && ctx.tap == nullptr &&
               ctx.weights.matrix(up_).skips == Skips::kOutputs &&
               ctx.weights.matrix(down_).skips == Skips::kInputs && !ctx.weights.matrix(up_).bias &&
               !ctx.weights.matrix(down_).bias;
    }

    // h: the norm's; what the post norm reads takes its place.
    void forward_kept(BlockCtx& ctx, View x, View h, View gate) const {
        const Exec& exec = ctx.exec;
        apply(exec, h, std::array{ctx.weights.matrix(gate_).into(gate)});
        for (std::int64_t t = 0; t < x.rows; ++t) {
            ops::KeptFfn p;
            p.act = model_.gate;
            p.x = h.slice_rows(t, 1), p.gate = gate.slice_rows(t, 1);
            p.least = ctx.weights.vector(*thresholds_);
            p.up = ctx.weights.matrix(up_).weight, p.down = ctx.weights.matrix(down_).weight;
            p.out = (post_norm_ ? h : x).slice_rows(t, 1), p.accumulate = !post_norm_;
            ops::kept_ffn(exec, p);
        }
        if (!post_norm_) return;
        ops::rms_norm(exec, h, ctx.weights.vector(*post_norm_), model_.norm_epsilon, h);
        ops::add(exec, x, h, x);
    }

    // Workspace of lists, or of a matrix packed anew.
    [[nodiscard]] std::size_t skipping(const BlockPlan& plan) const {
        if (!thresholds_ || plan.exec.device != Device::kCpu) return 0;
        std::size_t bytes = ops::kept_ffn_bytes(plan.exec, width_, model_.hidden);
        if (ops::reads_rows(up_layout_))
            bytes = std::max(bytes, skipping_bytes(up_layout_, {width_, model_.hidden}));
        if (ops::reads_rows(down_layout_))
            bytes = std::max(bytes, skipping_bytes(down_layout_, {model_.hidden, width_}));
        return bytes;
    }

    const ModelSpec& model_;
    std::size_t gate_, up_, down_, norm_;
    std::optional<std::size_t> thresholds_, post_norm_;
    LayoutId up_layout_, down_layout_;
    std::int64_t width_;  // of this layer
};

}  // namespace

std::unique_ptr<Block> make_ffn_block(const BlockSpec& spec) {
    return std::make_unique<FfnBlock>(spec);
}

}  // namespace thimble
