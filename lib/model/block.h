// SPDX-License-Identifier: Apache-2.0
// A layer is a list of sublayers; each is a Block that adds to the residual stream. Blocks take the
// element type from the context and never name it. One leaf file in blocks/ plus one line in
// blocks.def makes a new one.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>

#include "kv/packed_sequences.h"
#include "model/linear_gradient.h"
#include "model/spec.h"
#include "model/store.h"

namespace thimble {

// All that a block knows when it is made.
struct BlockSpec {
    const ModelSpec& model;
    const UnitSpec& unit;  // of its layer
    int layer = 0;
};

// Watches a model at work.
class Tap {
  public:
    virtual ~Tap() = default;
    // x [T, in] is about to be multiplied by these matrices of the unit (places in its UnitSpec).
    virtual void input(UnitId unit, std::span<const std::size_t> matrices, View x) = 0;
    // gate and up [T, channels] of its feed-forward block are about to become act(gate) * up.
    virtual void gated(const Exec& /*exec*/, UnitId /*unit*/, View /*gate*/, View /*up*/) {}
};

// Shows a tap what matrices of a unit are about to read, as they read it. Takes no more workspace
// than apply() does.
void show_input(Tap& tap, const Exec& exec, const Lease& weights,
                std::span<const std::size_t> matrices, View x);

// What one block's forward pass leaves for its backward pass: both take the same views in the same
// order. The memory is the tape's.
class SavedViews {
  public:
    // Without memory: measures.
    explicit SavedViews(std::byte* data = nullptr) : data_(data) {}
    View take(DType dtype, std::int64_t rows, std::int64_t cols) {
        std::byte* at = data_ ? data_ + used_ : reinterpret_cast<std::byte*>(64 + used_);
        used_ += (static_cast<std::size_t>(rows * cols) * size_of(dtype) + 63) & ~std::size_t{63};
        return {at, dtype, rows, cols, cols};
    }
    [[nodiscard]] std::size_t used() const noexcept { return used_; }

  private:
    std::byte* data_;
    std::size_t used_ = 0;
};

// All that it meets in a step.
struct BlockCtx {
    const Exec& exec;
    const Lease& weights;
    SequenceState& kv;
    Tap* tap = nullptr;
    SavedViews* saved = nullptr;  // null: nothing is kept

    // Memory for an intermediate: kept for the backward pass where there will be one.
    [[nodiscard]] View keep(std::int64_t rows, std::int64_t cols) const {
        return saved != nullptr ? saved->take(exec.dtype(), rows, cols)
                                : exec.workspace->take_view(exec.dtype(), rows, cols);
    }

    void show(std::initializer_list<std::size_t> matrices, View x) const {
        if (tap) show_input(*tap, exec, weights, {matrices.begin(), matrices.size()}, x);
    }
};

// All that it meets in a backward pass.
struct BackwardCtx {
    const Exec& exec;
    const Lease& weights;
    const PackedSequences& sequences;
    SavedViews& saved;
    GradientSink& sink;

    [[nodiscard]] View kept(std::int64_t rows, std::int64_t cols) const {
        return saved.take(exec.dtype(), rows, cols);
    }
    [[nodiscard]] LinearUse use(std::size_t matrix) const {
        return {weights.matrix(matrix), weights.unit(), matrix};
    }
    // Of y = rms_norm(x, vector): dx += ...; dx may be dy, then dx = ....
    void norm_backward(std::size_t vector, View x, double epsilon, View dy, View dx) const;
};

// For planning: what a step of so many tokens will meet.
struct BlockPlan {
    const Exec& exec;  // team and workspace unset
    std::int64_t tokens = 0;
    std::size_t attend_bytes = 0;  // workspace of KvEngine::attend
};

class Block {
  public:
    virtual ~Block() = default;
    // x += block(x); x: [T, hidden].
    virtual void forward(BlockCtx& ctx, View x) const = 0;
    // Whether there is a backward pass; without one the next two are never called.
    [[nodiscard]] virtual bool trains() const { return true; }
    // Bytes of the views that forward() keeps of a step of so many tokens.
    [[nodiscard]] virtual std::size_t saved_bytes(const Exec& exec, std::int64_t tokens) const = 0;
    // dx: the gradient of what x became; becomes that of what it was.
    virtual void backward(BackwardCtx& ctx, View dx) const = 0;
    // Workspace that forward() takes at its peak.
    [[nodiscard]] virtual std::size_t workspace_bytes(const BlockPlan& plan) const = 0;
};

// One without a backward pass.
class ForwardBlock : public Block {
  public:
    [[nodiscard]] bool trains() const final { return false; }
    [[nodiscard]] std::size_t saved_bytes(const Exec& exec, std::int64_t tokens) const final;
    void backward(BackwardCtx& ctx, View dx) const final;
};

[[nodiscard]] std::unique_ptr<Block> make_block(std::string_view kind, const BlockSpec& spec);

// Workspace bytes of a view of [rows, cols].
[[nodiscard]] inline std::size_t view_bytes(const Exec& exec, std::int64_t rows,
                                            std::int64_t cols) {
    return (static_cast<std::size_t>(rows * cols) * size_of(exec.dtype()) + 63) & ~std::size_t{63};
}

}  // namespace thimble
