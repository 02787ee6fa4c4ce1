// SPDX-License-Identifier: Apache-2.0
// The tiny random models of tests/golden/models and what transformers computes with them
// (scripts/make_golden_model.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thimble::test {

struct GoldenPrompt {
    std::vector<std::int32_t> tokens;
    std::vector<float> logits;         // [tokens, vocab]
    std::vector<std::int32_t> greedy;  // continuation
};

struct GoldenModel {
    std::string name;
    std::string directory;  // Hugging Face layout
    std::vector<GoldenPrompt> prompts;
};

[[nodiscard]] const std::vector<GoldenModel>& golden_models();
[[nodiscard]] const GoldenModel& golden_model(const std::string& name);

// Writes the model as one GGUF file: matrices in `format` ("f32", "q8_0", ...; where a row is no
// multiple of its block, and for vectors: f32), metadata translated, no vocabulary.
void write_gguf(const std::string& directory, const std::string& path, const std::string& format);

}  // namespace thimble::test
