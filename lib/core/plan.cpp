// SPDX-License-Identifier: Apache-2.0
#include "core/plan.h"

#include <numeric>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {

std::uint64_t Plan::total_bytes(Tier t) const {
    const BytesByPurpose& parts = bytes[static_cast<std::size_t>(t)];
    return std::accumulate(parts.begin(), parts.end(), std::uint64_t{0});
}

void check_budget(const Plan& plan, const Budget& budget) {
    for (std::size_t t = 0; t < kTiers; ++t) {
        const Tier tier = static_cast<Tier>(t);
        const std::uint64_t needed = plan.total_bytes(tier);
        const auto& limit = budget.limit_bytes[t];
        if (!limit || needed <= *limit) continue;
        throw Error(Exit::kOverBudget, "--max-memory",
                    std::string(name(tier)) + "=" + format_bytes(*limit) + " is too small: " +
                        format_bytes(needed) + " (" + std::to_string(needed) + " bytes) needed",
                    plan.cheapest_change);
    }
}

}  // namespace thimble
