// SPDX-License-Identifier: Apache-2.0
// The Hugging Face directory that a job writes: tensors under its names, config.json and the other
// files beside the weights.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "calib/hf_side_files.h"
#include "io/hf_directory.h"
#include "quant/rules.h"

namespace thimble {

class HfOutput {
  public:
    // Turns choices for the source's tensors into choices for the directory's: vectors take the
    // format of the matrices, or keep their own where `keeps_types`. Throws kUsage for a format
    // that safetensors cannot hold.
    HfOutput(const ModelSource& source, std::vector<TensorChoice>& choices, bool keeps_types);

    struct Size {
        std::uint64_t file_bytes = 0, header_bytes = 0;
    };
    // `steps` goes into the weights' own metadata; `build`: as GgufWriter takes it.
    [[nodiscard]] Size predict(const std::string& path, const std::vector<TensorSpec>& specs,
                               std::uint64_t max_shard_bytes, const std::string& steps) const;
    [[nodiscard]] std::unique_ptr<TensorWriter> open(const std::string& path,
                                                     const std::vector<TensorSpec>& specs,
                                                     std::uint64_t max_shard_bytes,
                                                     const std::string& steps, IfExists if_exists,
                                                     const std::string& build) const;
    // Held as Purpose::kVocabulary.
    [[nodiscard]] std::uint64_t vocabulary_bytes() const noexcept {
        return files_->vocabulary_bytes();
    }
    [[nodiscard]] bool has_tokenizer() const noexcept { return files_->has_tokenizer(); }

  private:
    std::vector<SourceTensor> tensors_;
    std::unique_ptr<HfSideFiles> files_;  // beside the weights
};

}  // namespace thimble
