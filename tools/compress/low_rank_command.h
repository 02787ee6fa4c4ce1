// SPDX-License-Identifier: Apache-2.0
// --method low-rank.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command low_rank_command();

}  // namespace thimble
