// SPDX-License-Identifier: Apache-2.0
// quantize without a command name: a model in, a model of another format out.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command quantize_command();

}  // namespace thimble
