// SPDX-License-Identifier: Apache-2.0
// quantize split, quantize merge: the same model in more or fewer files.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command split_command();
[[nodiscard]] cli::Command merge_command();

}  // namespace thimble
