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
};

// All that it meets in a step.
struct BlockCtx {
    const Exec& exec;
    const Lease& weights;
    KvEngine& kv;
    Tap* tap = nullptr;

    void show(std::initializer_list<std::size_t> matrices, View x) const {
        if (tap) tap->input(weights.unit(), {matrices.begin(), matrices.size()}, x);
    }
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
    // Workspace that forward() takes at its peak.
    [[nodiscard]] virtual std::size_t workspace_bytes(const BlockPlan& plan) const = 0;
};

[[nodiscard]] std::unique_ptr<Block> make_block(std::string_view kind, const BlockSpec& spec);

// Workspace bytes of a view of [rows, cols].
[[nodiscard]] inline std::size_t view_bytes(const Exec& exec, std::int64_t rows,
                                            std::int64_t cols) {
    return (static_cast<std::size_t>(rows * cols) * size_of(exec.dtype()) + 63) & ~std::size_t{63};
}

}  // namespace thimble
