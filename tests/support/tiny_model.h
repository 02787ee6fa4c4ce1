// SPDX-License-Identifier: Apache-2.0
// A tiny golden model as a GGUF file with a vocabulary, so that every tool takes it: one piece per
// printable ASCII character, chatml as its chat template.
#pragma once

#include <string>

#include "tests/support/golden_model.h"

namespace thimble::test {

// Matrices in `format`, as ModelCopy::as_gguf.
[[nodiscard]] ModelCopy tiny_model(const std::string& golden_name,
                                   const std::string& format = "f32");
void write_tiny_model(const std::string& path, const std::string& golden_name,
                      const std::string& format = "f32");

}  // namespace thimble::test
