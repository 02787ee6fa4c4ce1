// SPDX-License-Identifier: Apache-2.0
// compress without a command name, and compress --decompress: a model without losing a bit.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command lossless_command();
[[nodiscard]] cli::Command decompress_command();

}  // namespace thimble
