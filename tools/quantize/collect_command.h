// SPDX-License-Identifier: Apache-2.0
// quantize collect-imatrix: an importance matrix from a model and a text.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command collect_command();

}  // namespace thimble
