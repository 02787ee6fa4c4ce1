// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention: norm, q/k/v, optional norm of each head, the KV engine, output, optional
// norm.
#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "model/block.h"
#include "ops/gradients.h"

namespace thimble {
namespace {

class AttentionBlock final : public Block {
  public:
    explicit AttentionBlock(const BlockSpec& spec)
        : model_(spec.model),
          layer_(spec.layer),
          shape_(spec.model.attention[static_cast<std::size_t>(spec.layer)].shape),
          q_(spec.unit.matrix("attn_q")),
          k_(spec.unit.matrix("attn_k")),
          v_(spec.unit.matrix("attn_v")),
          output_(spec.unit.matrix("attn_output")),
          norm_(spec.unit.vector("attn_norm")) {
        if (model_.qk_norm) {
            q_norm_ = spec.unit.vector("attn_q_norm");
            k_norm_ = spec.unit.vector("attn_k_norm");
        }
        if (model_.post_norms) post_norm_ = spec.unit.vector("post_attention_norm");
    }

    void forward(BlockCtx& ctx, View x) const override {
        const Exec& exec = ctx.exec;
        Workspace& workspace = *exec.workspace;
        const WorkspaceScope scope(workspace);
        const auto take = [&](std::int64_t cols) {
            return workspace.take_view(exec.dtype(), x.rows, cols);
        };
        if (ctx.saved) ops::copy(exec, x, ctx.keep(x.rows, x.cols));
        const View h = take(x.cols);
        View q = ctx.keep(x.rows, q_cols()), k = ctx.keep(x.rows, kv_cols());
        const View v = ctx.keep(x.rows, kv_cols());
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        const std::array uses = {ctx.weights.matrix(q_).into(q), ctx.weights.matrix(k_).into(k),
                                 ctx.weights.matrix(v_).into(v)};
        ctx.show({q_, k_, v_}, h);
        apply(exec, h, uses);
        const View attended = ctx.keep(x.rows, q_cols());
        if (ctx.saved && q_norm_) {  // kept as they were before the norm
            q = copy(exec, q), k = copy(exec, k);
        }
        norm_heads(ctx.exec, ctx.weights, q, k);
        ctx.kv.attend(exec, layer_, q, k, v, attended);
        const Linear& output = ctx.weights.matrix(output_);
        ctx.show({output_}, attended);
        if (!post_norm_) {
            apply(exec, attended, std::array{output.onto(x)});
            return;
        }
        const View out = ctx.saved ? ctx.keep(x.rows, x.cols) : h;
        apply(exec, attended, std::array{output.into(out)});
        ops::rms_norm(exec, out, ctx.weights.vector(*post_norm_), model_.norm_epsilon, h);
        ops::add(exec, x, h, x);
    }

    std::size_t saved_bytes(const Exec& exec, std::int64_t tokens) const override {
        return view_bytes(exec, tokens, model_.hidden) * (post_norm_ ? 2 : 1) +
               2 * view_bytes(exec, tokens, q_cols()) + 2 * view_bytes(exec, tokens, kv_cols());
    }

    void backward(BackwardCtx& ctx, View dx) const override {
        const Exec& exec = ctx.exec;
        const WorkspaceScope scope(*exec.workspace);
        const auto take = [&](std::int64_t cols) {
            return exec.workspace->take_view(exec.dtype(), dx.rows, cols);
        };
        const View x = ctx.kept(dx.rows, dx.cols);
        const View q = ctx.kept(dx.rows, q_cols()), k = ctx.kept(dx.rows, kv_cols());
        const View v = ctx.kept(dx.rows, kv_cols()), attended = ctx.kept(dx.rows, q_cols());
        View dout = dx;
        if (post_norm_) {
            const View out = ctx.kept(dx.rows, dx.cols);
            dout = copy(exec, dx);
            ctx.norm_backward(*post_norm_, out, model_.norm_epsilon, dout, dout);
        }
        const View dq = take(q_cols()), dk = take(kv_cols()), dv = take(kv_cols());
        {
            ops::MatmulInput input(exec, attended);
            thimble::backward(exec, ctx.use(output_), input, dout, ctx.sink, dq, false);
        }
        attend_backward(ctx, q, k, v, dq, dk, dv);
        const View h = take(dx.cols), dh = take(dx.cols);
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        {
            ops::MatmulInput input(exec, h);
            thimble::backward(exec, ctx.use(q_), input, dq, ctx.sink, dh, false);
            thimble::backward(exec, ctx.use(k_), input, dk, ctx.sink, dh, true);
            thimble::backward(exec, ctx.use(v_), input, dv, ctx.sink, dh, true);
        }
        ctx.norm_backward(norm_, x, model_.norm_epsilon, dh, dx);
    }

    std::size_t workspace_bytes(const BlockPlan& plan) const override {
        const auto bytes = [&](std::int64_t cols) {
            return view_bytes(plan.exec, plan.tokens, cols);
        };
        const auto input = [&](std::int64_t cols) {
            return ops::matmul_input_bytes(plan.exec, plan.tokens, cols);
        };
        const std::size_t after = bytes(q_cols()) + std::max(plan.attend_bytes, input(q_cols()));
        return bytes(model_.hidden) + bytes(q_cols()) + 2 * bytes(kv_cols()) +
               std::max(input(model_.hidden), after);
    }

  private:
    [[nodiscard]] std::int64_t q_cols() const {
        return std::int64_t{shape_.heads} * shape_.head_dim;
    }
    [[nodiscard]] std::int64_t kv_cols() const {
        return std::int64_t{shape_.kv_heads} * shape_.head_dim;
    }

    // x: [T, heads * head_dim], seen as [T * heads, head_dim].
    [[nodiscard]] View heads_of(View x) const {
        const std::int64_t dim = shape_.head_dim;
        return {x.data, x.dtype, x.rows * (x.cols / dim), dim, dim};
    }
    static View copy(const Exec& exec, View x) {
        const View to = exec.workspace->take_view(x.dtype, x.rows, x.cols);
        ops::copy(exec, x, to);
        return to;
    }

    void norm_heads(const Exec& exec, const Lease& weights, View q, View k) const {
        if (!q_norm_) return;
        for (const auto& [x, norm] : {std::pair(q, *q_norm_), std::pair(k, *k_norm_)}) {
            const View heads = heads_of(x);
            ops::rms_norm(exec, heads, weights.vector(norm), model_.norm_epsilon, heads);
        }
    }

    // From the gradient of attention's output, in dq, to those of q, k (before norm and rotation)
    // and v. Without norms the forward pass has rotated q and k in their place.
    void attend_backward(BackwardCtx& ctx, View q, View k, View v, View dq, View dk,
                         View dv) const {
        if (!q_norm_)
            return ctx.sequences.attend_backward(ctx.exec, layer_, q, k, v, dq, dq, dk, dv);
        const WorkspaceScope scope(*ctx.exec.workspace);
        const View normed_q = copy(ctx.exec, q), normed_k = copy(ctx.exec, k);
        norm_heads(ctx.exec, ctx.weights, normed_q, normed_k);
        ctx.sequences.rotate(ctx.exec, layer_, normed_q, normed_k);
        ctx.sequences.attend_backward(ctx.exec, layer_, normed_q, normed_k, v, dq, dq, dk, dv);
        ctx.norm_backward(*q_norm_, heads_of(q), model_.norm_epsilon, heads_of(dq), heads_of(dq));
        ctx.norm_backward(*k_norm_, heads_of(k), model_.norm_epsilon, heads_of(dk), heads_of(dk));
    }

    const ModelSpec& model_;
    int layer_;
    AttentionLayer shape_;
    std::size_t q_, k_, v_, output_, norm_;
    std::optional<std::size_t> q_norm_, k_norm_, post_norm_;
};

}  // namespace

std::unique_ptr<Block> make_attention_block(const BlockSpec& spec) {
    return std::make_unique<AttentionBlock>(spec);
}

}  // namespace thimble
