// SPDX-License-Identifier: Apache-2.0
// The tiny random models of tests/golden/models, what transformers computes with them
// (scripts/make_golden_model.py), and copies of them to spoil.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/model_file.h"
#include "model/source.h"

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
// tests/golden/models/<name>, also of models that transformers does not know.
[[nodiscard]] std::string golden_directory(const std::string& name);

// A whole model in memory, to be changed and written again.
struct ModelCopy {
    Metadata metadata;  // GGUF
    Json config;        // Hugging Face
    std::vector<TensorSpec> specs;
    std::vector<std::vector<std::byte>> data;

    // As it is on disk, tensors under their stored names.
    [[nodiscard]] static ModelCopy of_hf(const std::string& directory);
    // Translated: canonical names and rows, matrices in `format` ("f32", "q8_0", ...; where a row
    // is no multiple of its block, and for vectors: f32), metadata without a vocabulary.
    [[nodiscard]] static ModelCopy as_gguf(const std::string& directory, const std::string& format);
    [[nodiscard]] static ModelCopy as_gguf(const ModelSource& source, const std::string& format);

    // Translated with all codes and scales kept, as a quantised checkpoint has them.
    [[nodiscard]] static ModelCopy as_packed_gguf(const std::string& directory);

    [[nodiscard]] std::size_t index(const std::string& tensor) const;
    void remove(std::size_t tensor);
    void write_hf(const std::string& directory) const;
    void write_gguf(const std::string& path) const;
};

}  // namespace thimble::test
