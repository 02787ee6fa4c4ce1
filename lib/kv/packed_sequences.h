// SPDX-License-Identifier: Apache-2.0
// Whole documents side by side in one step, as training has them: each token sees its own document
// up to itself, positions begin anew in each, and nothing is remembered. Attention and its
// gradient.
#pragma once

#include <span>
#include <vector>

#include "kv/sequence_state.h"

namespace thimble {

class PackedSequences final : public SequenceState {
  public:
    explicit PackedSequences(std::vector<AttentionSpec> layers) : layers_(std::move(layers)) {}

    // The documents of the steps that follow, in the order of their rows.
    void set_documents(std::span<const std::int64_t> lengths);
    [[nodiscard]] std::int64_t tokens() const noexcept { return std::ssize(positions_); }

    void attend(const Exec& exec, int layer, View q, View k, View v, View out) override;
    // Rotates q and k as attend() does: for a backward pass that kept them unrotated.
    void rotate(const Exec& exec, int layer, View q, View k) const;
    // From the gradient of attend()'s output to those of q, k (as before the rotation) and v, which
    // they replace; q and k are rotated. dq may be dout.
    void attend_backward(const Exec& exec, int layer, View q, View k, View v, View dout, View dq,
                         View dk, View dv) const;

    // Workspace bytes that attend() and attend_backward() take for `tokens` rows of documents of at
    // most `longest` tokens.
    [[nodiscard]] static std::size_t attend_bytes(const std::vector<AttentionSpec>& layers,
                                                  const Exec& exec, std::int64_t longest);
    [[nodiscard]] static std::size_t backward_bytes(const std::vector<AttentionSpec>& layers,
                                                    const Exec& exec, std::int64_t longest);

  private:
    void rotate_by(const Exec& exec, int layer, std::span<const std::int64_t> positions, View q,
                   View k) const;

    std::vector<AttentionSpec> layers_;
    std::vector<std::int64_t> lengths_;
    std::vector<std::int64_t> positions_, back_;  // [T]: of each row, and their negatives
};

}  // namespace thimble
