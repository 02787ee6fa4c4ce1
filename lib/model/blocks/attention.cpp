// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention: norm, q/k/v, optional norm of each head, the KV engine, output, optional
// norm.
#include <algorithm>
#include <array>
#include <optional>

#include "model/block.h"

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
        const View h = take(x.cols);
        const View q = take(q_cols()), k = take(kv_cols()), v = take(kv_cols());
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        const std::array problems = {ctx.weights.matrix(q_).into(q), ctx.weights.matrix(k_).into(k),
                                     ctx.weights.matrix(v_).into(v)};
        ctx.show({q_, k_, v_}, h);
        apply(exec, h, problems);
        if (q_norm_) norm_heads(exec, q, ctx.weights.vector(*q_norm_));
        if (k_norm_) norm_heads(exec, k, ctx.weights.vector(*k_norm_));

        const View attended = take(q_cols());
        ctx.kv.attend(exec, layer_, q, k, v, attended);
        const Linear& output = ctx.weights.matrix(output_);
        ctx.show({output_}, attended);
        if (!post_norm_) {
            apply(exec, attended, std::array{output.onto(x)});
            return;
        }
        apply(exec, attended, std::array{output.into(h)});
        ops::rms_norm(exec, h, ctx.weights.vector(*post_norm_), model_.norm_epsilon, h);
        ops::add(exec, x, h, x);
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
    void norm_heads(const Exec& exec, View x, View weight) const {
        const std::int64_t dim = shape_.head_dim;
        const View heads = {x.data, x.dtype, x.rows * (x.cols / dim), dim, dim};
        ops::rms_norm(exec, heads, weight, model_.norm_epsilon, heads);
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
