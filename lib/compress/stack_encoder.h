// SPDX-License-Identifier: Apache-2.0
// A matrix into signed blocks of low rank, one after the other, each of what those before it left:
// "BitStack: Any-Size Compression of Large Language Models in Variable Memory Environments" (2025).
//   the weights' columns are multiplied by s, how strongly their inputs are used
//   S = sign of the residual (of zeros: +), a b^T = leading part of |residual|, residual -= S (a
//   b^T)
// differs: 1 / s is not folded into the layer before but into b: sign(x) = sign(x s), so a block
// (S, a, b / s) is one of the unscaled matrix. No tensor but the matrix itself changes, matrices
// whose input comes from no foldable layer are scaled like the others, and neither bytes nor time
// are spent on s when the model runs.
// differs: a and b are stored with their largest number at 2^15 and one F32 factor for both, so
// that late levels do not underflow F16.
#pragma once

#include <span>
#include <vector>

#include "model/stacked_tensor.h"

namespace thimble {

class StackEncoder {
  public:
    // `weights`: [rows, cols] without gaps, finite. `scales`: [cols], positive; empty: all one. The
    // exec needs no workspace.
    StackEncoder(const Exec& exec, const StackForm& form, std::vector<float> weights,
                 std::span<const float> scales);
    // The next block, of form.bytes.
    void next(std::span<std::byte> out);
    // Of the scaled residual: with s the root mean square of inputs that do not correlate, the mean
    // square error of the product, summed over its outputs.
    [[nodiscard]] double residual_square() const noexcept { return square_; }
    [[nodiscard]] static std::uint64_t bytes(const StackForm& form);

  private:
    void subtract(const ops::SignedBlock& block);

    Exec exec_;
    StackForm form_;
    std::vector<float> residual_, magnitudes_, scales_;
    double square_ = 0;
    double negligible_ = 0;  // a square that is no more than how floats were rounded: taken for 0
    std::uint64_t level_ = 0;
};

// How strongly columns are used, of the mean squares of their inputs: their roots, none below 1e-5
// of the largest.
[[nodiscard]] std::vector<float> stack_scales(std::span<const float> mean_squares);

// Bit c % 8 of byte c / 8: whether row[c] < 0; zeros of both signs are not.
void pack_signs(std::span<const float> row, std::span<std::byte> out);

}  // namespace thimble
