// SPDX-License-Identifier: Apache-2.0
// Writes what is left of a model as one GGUF file. Tensors that stay whole, or lose rows only, keep
// their codes byte for byte; those that lose columns or whose weights change are floats again: of
// the source's type where that is one, else of the type asked for.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "format/weight_format.h"
#include "io/tensor_writer.h"
#include "prune/cut.h"

namespace thimble::prune {

// One tensor of the output.
struct OutputTensor {
    const SourceTensor* from = nullptr;
    std::string name;
    std::optional<Kept> rows, cols;  // of the source; nullopt: all
    SharedFormat format;             // null: rows are copied as they are stored
    PackedForm form;
    Shape2 shape;
    bool edited = false;  // its weights come from elsewhere
    std::size_t first_spec = 0;
};

class ModelWriter {
  public:
    struct Setup {
        const ModelSource* source = nullptr;
        SharedFormat format;  // of matrices that become floats; null: f16
        // Of single matrices, whatever they are in the source; null, or what returns null: as
        // above.
        std::function<SharedFormat(const SourceTensor&)> format_of = {};
        bool edits = false;   // matrices of layers change
        bool refits = false;  // those that lose columns do
        Isa isa = Isa::kPortable;
    };
    ModelWriter(const Cut& cut, const Setup& setup);

    [[nodiscard]] const std::vector<OutputTensor>& tensors() const noexcept { return tensors_; }
    [[nodiscard]] const std::vector<TensorSpec>& specs() const noexcept { return specs_; }
    // The output's, without provenance.
    [[nodiscard]] Metadata metadata() const;
    // A tensor as the source has it, cut.
    void copy(const OutputTensor& tensor, TensorWriter& writer, Team& team) const;
    // An edited one, from [rows, cols] of the source.
    void store(const OutputTensor& tensor, std::span<const float> weights, TensorWriter& writer,
               Team& team) const;
    // Row buffers of `threads` workers.
    [[nodiscard]] std::size_t buffer_bytes(int threads) const;

  private:
    struct Piece;
    void add(const SourceTensor& tensor);
    void copy_rows(const Piece& piece) const;
    void encode_rows(const Piece& piece, const Encoder& encoder) const;

    Cut cut_;
    Setup setup_;
    ModelConfig config_;  // of what is left
    std::vector<OutputTensor> tensors_;
    std::vector<TensorSpec> specs_;
};

}  // namespace thimble::prune
