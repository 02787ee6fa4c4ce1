// SPDX-License-Identifier: Apache-2.0
// What a tool says it will use before it works: printed by --dry-run, checked against --max-memory,
// and set beside the measured peaks in the report.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/ledger.h"

namespace thimble {

struct Plan {
    // Predicted bytes by purpose at the moment of each tier's peak. The sum over purposes is the
    // tier's predicted peak; for Tier::kRam it predicts VmHWM. Data-dependent sizes enter with
    // their upper end.
    std::array<BytesByPurpose, kTiers> bytes{};
    std::uint64_t output_bytes = 0;  // size of the output file, exact where the format allows
    double seconds = 0;              // predicted wall time; 0 = not predicted
    std::string time_basis;          // which machine profile the time comes from
    std::vector<std::string> notes;  // what sits where, one line each
    std::string cheapest_change;  // the remedy named when the plan does not fit: "--ctx-size 2048
                                  // saves 1.2 GiB"

    [[nodiscard]] std::uint64_t& at(Tier t, Purpose p) {
        return bytes[static_cast<std::size_t>(t)][static_cast<std::size_t>(p)];
    }
    [[nodiscard]] std::uint64_t total_bytes(Tier t) const;
};

// Throws Error(kOverBudget) naming the tier, the predicted peak, the limit and
// plan.cheapest_change.
void check_budget(const Plan& plan, const Budget& budget);

}  // namespace thimble
