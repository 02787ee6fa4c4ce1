// SPDX-License-Identifier: Apache-2.0
// Matrices for timings: a few rows of small values in some format, over and over, in the layout
// that a model's weights would have in memory.
#pragma once

#include <cstdint>
#include <span>

#include "format/weight_format.h"
#include "ops/ops.h"
#include "tensor/buffer.h"

namespace thimble::cost {

// Small values without a pattern that a kernel could profit from.
void fill(std::span<float> out);

struct ProbeMatrix {
    Buffer memory;
    PackedView view;
};
// Of a multiple of ops::kRepackRows rows. Of formats that leave zeros out, half are zero. Throws
// Error(kUsage) where the format does not take rows of so many columns or encodes none.
[[nodiscard]] ProbeMatrix make_matrix(const Exec& exec, const WeightFormat& format, Shape2 shape);

// Median over passes through all rows of the matrix, `rows` of them a product with so many tokens.
[[nodiscard]] double seconds_of_products(const Exec& exec, const ProbeMatrix& matrix,
                                         std::int64_t rows, std::int64_t tokens,
                                         std::int64_t repeats);
[[nodiscard]] inline double ops_of(Shape2 shape, std::int64_t tokens) {
    return 2.0 * static_cast<double>(tokens * shape.rows * shape.cols);
}

// Input and output of products, with the workspace that they take: exec() is the one that it was
// made with, and this workspace.
class ProbeInput {
  public:
    ProbeInput(const Exec& exec, Shape2 weight, std::int64_t tokens);
    [[nodiscard]] const Exec& exec() const noexcept { return exec_; }
    [[nodiscard]] View x() const noexcept { return x_; }
    [[nodiscard]] View y() const noexcept { return y_; }

  private:
    Exec exec_;
    Workspace workspace_;
    Buffer input_, output_;
    View x_, y_;
};

}  // namespace thimble::cost
