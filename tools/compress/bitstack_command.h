// SPDX-License-Identifier: Apache-2.0
// compress --method bitstack: a model that runs in any size.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command bitstack_command();

}  // namespace thimble
