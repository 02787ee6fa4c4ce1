// SPDX-License-Identifier: Apache-2.0
// quantize imatrix: importance matrices shown, converted and added up.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command imatrix_command();

}  // namespace thimble
