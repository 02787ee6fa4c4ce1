// SPDX-License-Identifier: Apache-2.0
// Memory that is charged but that nobody uses, kept for the next who wants the like: the ledger has
// it given back before it refuses a charge, and before a charge would raise the peak. So what is
// kept never costs anyone memory, and a plan need not count it.
#pragma once

#include <cstdint>

namespace thimble {

// Gives back about so many bytes of ram, as far as there are any, and releases their charge. Called
// by any thread that charges.
using Reclaim = void (*)(std::uint64_t bytes) noexcept;

// One holder at a time; null: none.
void set_reclaim(Reclaim reclaim) noexcept;

}  // namespace thimble
