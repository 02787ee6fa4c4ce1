// SPDX-License-Identifier: Apache-2.0
// quantize inspect: what a model file holds, of any architecture.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command inspect_command();

}  // namespace thimble
