// SPDX-License-Identifier: Apache-2.0
// The triangular factor of the inverse of a sum of x x^T, which methods that make up for one
// weight's change with the others need: "Optimal Brain Compression" (2022), "GPTQ" (2022).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "tensor/buffer.h"

namespace thimble {

// Upper triangular U [n, n] (zeros below) with U^T U = (gram + damp * mean(diagonal) * I)^-1, in
// doubles. Rows and columns whose diagonal is zero are those of the identity: such inputs are
// always zero. Error(kBadData) naming `where` when the sum is not finite or, damped, not positive
// definite.
[[nodiscard]] Buffer inverse_factor(std::span<const float> gram, std::int64_t n, double damp,
                                    std::string_view where);
// What that takes at its peak, the result included.
[[nodiscard]] std::size_t inverse_factor_bytes(std::int64_t n);

}  // namespace thimble
