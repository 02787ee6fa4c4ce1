// SPDX-License-Identifier: Apache-2.0
// A low-rank adapter: for some matrices W [out, in] of a model the terms of W + scale * B A, and
// with DoRA the lengths that the rows of the sum are scaled to. In memory it is in the canonical
// convention (rows as GGUF orders them), whatever holds it:
//   a PEFT directory (adapter_config.json and adapter_model.safetensors),
//   llama.cpp's GGUF adapter (general.type = adapter, adapter.type = lora).
// "LoRA: Low-Rank Adaptation of Large Language Models" (2021); scale = alpha / rank, with rslora
// alpha / sqrt(rank): "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023);
// lengths: "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/atomic_file.h"
#include "model/source.h"
#include "tensor/buffer.h"

namespace thimble {

struct AdapterSettings {
    bool rslora = false, dora = false;
    double dropout = 0;      // of its training
    std::string base_model;  // the model that it is for, as its maker called it; may be empty
};

struct AdapterMatrix {
    const SourceTensor* tensor = nullptr;  // of the model's source: W
    std::int64_t rank = 0;
    double alpha = 0;
    // Values, borrowed; null where they were not read.
    const float* a = nullptr;        // [rank, in]
    const float* b = nullptr;        // [out, rank]
    const float* lengths = nullptr;  // [out]; with DoRA

    [[nodiscard]] std::int64_t in() const { return tensor->cols(); }
    [[nodiscard]] std::int64_t out() const { return tensor->rows(); }
};

struct Adapter {
    AdapterSettings settings;
    std::vector<AdapterMatrix> matrices;  // in the order of the source's tensors
};

// Of B A.
[[nodiscard]] double adapter_scale(const AdapterSettings& settings, const AdapterMatrix& matrix);

// row [in] += scale * B_r A.
void add_terms(const AdapterMatrix& matrix, double scale, std::int64_t r, std::span<double> row);
// What scales row r, terms added, to its length; 0 for a row of zeros. With DoRA.
[[nodiscard]] double row_scale(const AdapterMatrix& matrix, std::int64_t r,
                               std::span<const double> row);

// An adapter on disk, untrusted: its headers are read and checked against the model when it is
// opened, its values when they are read.
class AdapterFile {
  public:
    // A PEFT directory or a .gguf file. Throws kNoInput, and kBadData where the file is damaged,
    // needs what is not supported (DoRA apart, anything but low-rank terms of the model's
    // matrices), or is for another model.
    AdapterFile(const std::string& path, const ModelSource& source);
    // Of open files: tensors as GGUF has them, or as PEFT has them with its config.
    AdapterFile(std::unique_ptr<ModelFile> file, const Json& config, const ModelSource& source);
    ~AdapterFile();
    AdapterFile(AdapterFile&& other) noexcept;

    [[nodiscard]] const std::string& path() const noexcept;
    [[nodiscard]] std::vector<std::string> files() const;   // what it is made of
    [[nodiscard]] const Adapter& adapter() const noexcept;  // without values
    // Bytes that the values of one matrix, or of all, take in memory.
    [[nodiscard]] std::size_t value_bytes(std::size_t matrix) const noexcept;
    [[nodiscard]] std::size_t value_bytes() const noexcept;
    // A matrix with its values, in memory of value_bytes(matrix) bytes, aligned to 64. Throws
    // kBadData where one is not finite.
    [[nodiscard]] AdapterMatrix read(std::size_t matrix, std::byte* memory) const;
    [[nodiscard]] Adapter read(std::byte* memory) const;

    struct Parts;  // what a container's parser makes

  private:
    std::unique_ptr<Parts> parts_;
};

struct AdapterOutput {
    TensorType type = TensorType::kF32;  // or kF16, kBF16: what the terms are stored in
    std::string steps = {};              // thimble.steps (quant/provenance.h); empty: none
    IfExists if_exists = IfExists::kRefuse;
};
// Whole or not at all. Throw kCannotCreate and kIo.
void write_peft(const std::string& directory, const ModelSource& source, const Adapter& adapter,
                const AdapterOutput& output);
// kUsage for DoRA, which this container cannot express.
void write_gguf_adapter(const std::string& path, const ModelSource& source, const Adapter& adapter,
                        const AdapterOutput& output);

}  // namespace thimble
