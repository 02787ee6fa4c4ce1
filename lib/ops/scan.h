// SPDX-License-Identifier: Apache-2.0
// Scores of stored vectors against queries (kernels/layout/vector_code.h), by the whole team; a
// score's bits depend on the level alone.
#pragma once

#include "core/team.h"
#include "kernels/cpu/scan_problem.h"
#include "kernels/layout/isa.h"

namespace thimble::ops {

using cpu::ScanCodes;
using cpu::ScanSigns;

// Floats of a query row with its padding.
[[nodiscard]] constexpr std::int64_t padded_dims(std::int64_t dims) noexcept {
    return (dims + cpu::kScanPadding - 1) / cpu::kScanPadding * cpu::kScanPadding;
}

void scan_codes(Team& team, Isa isa, const ScanCodes& problem);
void scan_signs(Team& team, Isa isa, const ScanSigns& problem);

}  // namespace thimble::ops
