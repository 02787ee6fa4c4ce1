// SPDX-License-Identifier: Apache-2.0
// The token mixer of MatMul-free models, a gated linear recurrence: with h_t = f h_{t-1} +
// (1 - f) silu(i), output (norm(g) silu(h)). The norm is that of the gate g, not of the state.
// "Scalable MatMul-free Language Modeling" (2024).
#include <algorithm>
#include <array>

#include "model/block.h"

namespace thimble {
namespace {

class MlgruBlock final : public ForwardBlock {
  public:
    explicit MlgruBlock(const BlockSpec& spec)
        : model_(spec.model),
          layer_(spec.layer),
          f_(spec.unit.matrix("attn_f")),
          i_(spec.unit.matrix("attn_i")),
          g_(spec.unit.matrix("attn_g")),
          output_(spec.unit.matrix("attn_output")),
          norm_(spec.unit.vector("attn_norm")),
          gate_norm_(spec.unit.vector("attn_g_norm")) {}

    void forward(BlockCtx& ctx, View x) const override {
        const Exec& exec = ctx.exec;
        const WorkspaceScope scope(*exec.workspace);
        const auto take = [&](std::int64_t rows) {
            return exec.workspace->take_view(exec.dtype(), rows, width());
        };
        const View h = take(x.rows), f = take(x.rows), i = take(x.rows), g = take(x.rows);
        ops::rms_norm(exec, x, ctx.weights.vector(norm_), model_.norm_epsilon, h);
        ctx.show({f_, i_, g_}, h);
        apply(exec, h,
              std::array{ctx.weights.matrix(f_).into(f), ctx.weights.matrix(i_).into(i),
                         ctx.weights.matrix(g_).into(g)});
        const View room = h;  // 1 - f
        const View lowest = take(1);
        fill_lowest(lowest);
        ops::forget_gate(exec, f, lowest, f, room);
        ops::glu(exec, ops::Gate::kSilu, i, room, i);
        const View states = room;
        ctx.kv.recur(exec, layer_, f, i, states);
        ops::rms_norm(exec, g, ctx.weights.vector(gate_norm_), model_.norm_epsilon, g);
        ops::glu(exec, ops::Gate::kSilu, states, g, g);
        ctx.show({output_}, g);
        apply(exec, g, std::array{ctx.weights.matrix(output_).onto(x)});
    }

    std::size_t workspace_bytes(const BlockPlan& plan) const override {
        const bool coded = model_.input_norm_epsilon > 0;
        return 4 * view_bytes(plan.exec, plan.tokens, width()) + view_bytes(plan.exec, 1, width()) +
               apply_bytes(plan.exec, plan.tokens, width(), coded);
    }

  private:
    [[nodiscard]] std::int64_t width() const { return model_.hidden; }

    void fill_lowest(View out) const {
        const double* from = model_.lower_bounds.data() + layer_ * width();
        if (out.dtype == DType::kF64) {
            std::copy_n(from, width(), out.row<double>(0));
        } else {
            std::transform(from, from + width(), out.row<float>(0),
                           [](double bound) { return static_cast<float>(bound); });
        }
    }

    const ModelSpec& model_;
    int layer_;
    std::size_t f_, i_, g_, output_, norm_, gate_norm_;
};

}  // namespace

std::unique_ptr<Block> make_mlgru_block(const BlockSpec& spec) {
    return std::make_unique<MlgruBlock>(spec);
}

}  // namespace thimble
