// SPDX-License-Identifier: Apache-2.0
// What is left of a matrix makes up for columns that go: least squares over a text's inputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "format/packed.h"

namespace thimble {

// W [rows, cols], in place: columns that are not in `kept` (ascending) become zero, the others
// change so that |W' X - W X|^2 + damp * mean(diagonal) * |W' - W|^2 over the kept columns is
// least, where gram = X X^T [cols, cols]: with K kept and D gone,
//   W'_K = W_K + W_D G_DK (G_KK + damp * mean * I)^-1.
// In doubles. Error(kBadData) naming `where` when the sum is not finite or, damped, not positive
// definite.
void refit_columns(std::span<float> weights, Shape2 shape, std::span<const float> gram,
                   std::span<const std::int64_t> kept, double damp, std::string_view where);
// What that takes beside its arguments at most.
[[nodiscard]] std::size_t refit_bytes(Shape2 shape);

}  // namespace thimble
