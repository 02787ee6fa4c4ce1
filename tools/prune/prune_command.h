// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command prune_command();

}  // namespace thimble
