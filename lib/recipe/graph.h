// SPDX-License-Identifier: Apache-2.0
// Puts steps in an order in which each comes after what it needs.
#pragma once

#include <cstddef>
#include <vector>

namespace thimble::recipe {

// `needs[i]` are the indices that i needs. The order keeps the given one where it can. With a cycle
// the order is empty and `cycle` names its members in order.
struct Order {
    std::vector<std::size_t> order, cycle;
};
[[nodiscard]] Order topological_order(const std::vector<std::vector<std::size_t>>& needs);

}  // namespace thimble::recipe
