// SPDX-License-Identifier: Apache-2.0
// compress embeddings: vectors as a store of few bytes, and back.
#pragma once

#include "cli/tool.h"

namespace thimble {

[[nodiscard]] cli::Command embeddings_command();

}  // namespace thimble
