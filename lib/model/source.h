// SPDX-License-Identifier: Apache-2.0
// A model container seen through its architecture: canonical tensor names, shapes and rows.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/model_file.h"
#include "model/spec.h"

namespace thimble {

// One tensor in the canonical (GGUF) convention.
struct SourceTensor {
    std::string name;  // "blk.0.attn_q.weight"
    const TensorEntry* entry = nullptr;
    std::vector<std::uint64_t> dims;  // row-major, slowest first
    bool is_matrix = false;           // 2-D weight of a Linear or embedding: may be quantised
    // Canonical row r is stored row source_row(r); empty: identity. (HF llama q/k rows are
    // permuted.)
    std::function<std::int64_t(std::int64_t)> source_row;
    float add = 0;  // added to each element on reading (HF gemma norms: +1)
};

class ModelSource {
  public:
    [[nodiscard]] static std::unique_ptr<ModelSource> open(const std::string& path);
    explicit ModelSource(std::unique_ptr<ModelFile> file);
    [[nodiscard]] ModelFile& file() const noexcept { return *file_; }
    // Cross-checked with tensor shapes; throws kBadData.
    [[nodiscard]] const ModelSpec& spec() const noexcept { return spec_; }
    [[nodiscard]] const std::vector<SourceTensor>& tensors() const noexcept { return tensors_; }
    [[nodiscard]] const SourceTensor* find(std::string_view name) const noexcept;
    // Rows [first, first+count) as F32, transforms applied; scratch is reused between calls.
    void read_rows(const SourceTensor& tensor, std::int64_t first, std::int64_t count, float* out,
                   std::vector<std::byte>& scratch) const;
    // GGUF metadata of this model: as stored for GGUF; translated from config.json and the
    // tokenizer's own files for HF (general.*, <arch>.*; tokenizer.* is added by
    // text::write_vocabulary).
    [[nodiscard]] Metadata gguf_metadata() const;

  private:
    std::unique_ptr<ModelFile> file_;
    ModelSpec spec_;
    std::vector<SourceTensor> tensors_;
};

}  // namespace thimble
