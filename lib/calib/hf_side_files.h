// SPDX-License-Identifier: Apache-2.0
// The files beside the weights of a Hugging Face directory: config.json, generation_config.json and
// the tokenizer's.
#pragma once

#include <memory>
#include <vector>

#include "model/source.h"
#include "text/hf_export.h"
#include "text/tokenizer.h"

namespace thimble {

class HfSideFiles {
  public:
    // `dtype` is what most weights are stored in. Of a directory its own files are taken over, of a
    // GGUF file they are made; with a `tokenizer`, which must live as long, they are made for that
    // one. Errors of hf_config() and Tokenizer::hf_files().
    HfSideFiles(const ModelSource& source, TensorType dtype, const Tokenizer* tokenizer = nullptr);

    [[nodiscard]] const std::vector<SideFile>& files() const noexcept { return files_; }
    // Held as Purpose::kVocabulary.
    [[nodiscard]] std::uint64_t vocabulary_bytes() const noexcept { return vocabulary_bytes_; }
    [[nodiscard]] bool has_tokenizer() const noexcept { return has_tokenizer_; }

  private:
    void add_tokenizer(const ModelSource& source, const Tokenizer& tokenizer, Json& config);

    std::unique_ptr<Tokenizer> opened_;  // where none was given
    HfTokenizerFiles tokenizer_files_;
    std::vector<SideFile> files_;
    std::uint64_t vocabulary_bytes_ = 0;
    bool has_tokenizer_ = true;
};

}  // namespace thimble
