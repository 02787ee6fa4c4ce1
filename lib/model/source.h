// SPDX-License-Identifier: Apache-2.0
// A model container seen through its architecture: canonical tensor names, shapes and rows.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/model_file.h"
#include "model/architecture.h"
#include "model/linear.h"
#include "model/packed_tensor.h"
#include "model/spec.h"

namespace thimble {

// One tensor in the canonical (GGUF) convention.
struct SourceTensor {
    std::string name;  // "blk.0.attn_q.weight"
    const TensorRule* rule = nullptr;
    std::int64_t layer = 0;  // of a tensor of one layer
    // The one tensor that holds it. Null where `packed` does, and for a tensor that the config
    // implies and the container lacks (an HF llama 3's rope_freqs.weight): its elements are then
    // `values`.
    const TensorEntry* entry = nullptr;
    std::shared_ptr<const PackedTensor> packed;
    std::vector<float> values;
    PackedForm form;                  // how its rows are read
    std::vector<std::uint64_t> dims;  // row-major, slowest first
    bool is_matrix = false;           // 2-D weight of a Linear or embedding: may be quantised
    // Canonical row r (element r of a vector) is stored row source_row(r); empty: identity. (HF
    // llama q/k rows are permuted.)
    std::function<std::int64_t(std::int64_t)> source_row;
    float add = 0;  // added to each element on reading (HF gemma norms: +1)
    // Of a feed-forward block that drops activations: what of it may be skipped.
    Skips skips = Skips::kNothing;

    [[nodiscard]] LayoutId layout() const { return form.layout; }
    [[nodiscard]] bool is_stored() const { return entry != nullptr || packed != nullptr; }
    [[nodiscard]] std::uint64_t stored_bytes() const {
        return packed ? packed->stored_bytes() : entry ? entry->bytes : 0;
    }
    [[nodiscard]] std::int64_t rows() const {
        return dims.size() == 2 ? static_cast<std::int64_t>(dims[0]) : 1;
    }
    [[nodiscard]] std::int64_t cols() const { return static_cast<std::int64_t>(dims.back()); }
};

// A rule's pattern with the layer's number in place of '#'.
[[nodiscard]] std::string tensor_name(std::string_view pattern, std::int64_t layer);
// Row-major, slowest first: of a vector one. `layer`: where it belongs to one.
[[nodiscard]] std::vector<std::uint64_t> tensor_dims(const TensorRule& rule, std::int64_t layer,
                                                     const ModelConfig& config);
class Importer;

class ModelSource {
  public:
    [[nodiscard]] static std::unique_ptr<ModelSource> open(const std::string& path);
    explicit ModelSource(std::unique_ptr<ModelFile> file);
    [[nodiscard]] ModelFile& file() const noexcept { return *file_; }
    // Cross-checked with tensor shapes; throws kBadData.
    [[nodiscard]] const ModelSpec& spec() const noexcept { return spec_; }
    [[nodiscard]] const Architecture& architecture() const noexcept { return *architecture_; }
    [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
    // In the order of the forward pass: embedding, layers, head.
    [[nodiscard]] const std::vector<SourceTensor>& tensors() const noexcept { return tensors_; }
    [[nodiscard]] const SourceTensor* find(std::string_view name) const noexcept;
    // Of the feed-forward blocks' activations (model/thresholds.h), by layer, [channels]: not
    // among tensors(), for no file has them as such. Empty: none are dropped.
    [[nodiscard]] const std::vector<SourceTensor>& thresholds() const noexcept {
        return thresholds_;
    }
    // As if there were none; for all that is made of the source from here on.
    void drop_thresholds();
    // Rows [first, first+count) as F32, transforms applied; scratch is reused between calls. A
    // vector is one row.
    void read_rows(const SourceTensor& tensor, std::int64_t first, std::int64_t count, float* out,
                   std::vector<std::byte>& scratch) const;
    // The same as F64, with all that is stored.
    void read_rows(const SourceTensor& tensor, std::int64_t first, std::int64_t count, double* out,
                   std::vector<std::byte>& scratch) const;
    // Rows of a matrix as stored, in canonical order, into out[0 .. tensor.form.bytes(count)): what
    // read_rows decodes. Indices of several planes are checked. Only where add == 0.
    PackedView read_packed(const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                           std::byte* out) const;
    // The same of one plane, unchecked; of a table, all of it.
    void read_plane(const SourceTensor& tensor, std::size_t plane, RowRange rows,
                    std::span<std::byte> out) const;
    // GGUF metadata of this model: as stored for GGUF; translated from config.json for HF
    // (general.*, <arch>.*; tokenizer.* is added by text::write_vocabulary).
    [[nodiscard]] Metadata gguf_metadata() const;

  private:
    template <class Real>
    void read(const SourceTensor& tensor, std::int64_t first, std::int64_t count, Real* out,
              std::vector<std::byte>& scratch) const;
    void add_tensors(const TensorRule& rule, std::int64_t layer, const Importer* importer);
    void find_stored(const std::string& stored, const Importer* importer, SourceTensor& tensor);
    void find_plain(const std::string& stored, SourceTensor& tensor);
    void refuse_unknown_tensors() const;
    void build_spec();
    void read_lower_bounds();
    void find_thresholds();
    void set_skips(bool on);

    std::unique_ptr<ModelFile> file_;
    const Architecture* architecture_;
    ModelConfig config_;
    ModelSpec spec_;
    std::vector<SourceTensor> tensors_, thresholds_;
    std::unordered_map<std::string_view, std::size_t> index_;  // names of tensors_
};

}  // namespace thimble
