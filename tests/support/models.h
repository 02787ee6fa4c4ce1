// SPDX-License-Identifier: Apache-2.0
// Where tests find the real models: $THIMBLE_MODELS, else the cache that fetch_models.sh fills.
#pragma once

#include <optional>
#include <string>

namespace thimble::test {

inline constexpr const char* kSmolLm2 = "SmolLM2-135M-Instruct.Q4_1.gguf";
inline constexpr const char* kGemma3 = "gemma-3-270m-q4_k_m.gguf";

// The model's path. When it is absent: nothing and a message, or a failed check if
// THIMBLE_REQUIRE_MODELS=1.
[[nodiscard]] std::optional<std::string> real_model(const std::string& file);

}  // namespace thimble::test
