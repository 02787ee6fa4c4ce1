// SPDX-License-Identifier: Apache-2.0
// quantize verify: whether a model file is whole, finite and the one that was meant.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command verify_command();

}  // namespace thimble
