// SPDX-License-Identifier: Apache-2.0
// How the numbers of embedding vectors are stored, after "Optimization of embeddings storage for
// RAG systems using quantization and dimensionality reduction techniques" (2025): a direct cast to
// a small float; 8 bits between each dimension's least and greatest; signs.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "io/model_file.h"
#include "kernels/layout/vector_code.h"

namespace thimble {

struct EmbeddingFormat {
    std::string_view name;
    VectorCode code;
    TensorType stored;  // the codes' type in a file
    std::string_view help;
};
[[nodiscard]] std::span<const EmbeddingFormat> embedding_formats() noexcept;
[[nodiscard]] const EmbeddingFormat* find_embedding_format(std::string_view name) noexcept;
[[nodiscard]] std::string_view name_of(VectorCode code) noexcept;
[[nodiscard]] bool takes_prescale(VectorCode code) noexcept;  // small floats do

// Of each dimension, for int8; the mean magnitude of all numbers, for signs.
struct VectorStatistics {
    std::vector<float> least, greatest;
    double magnitudes = 0;  // sum
    std::int64_t rows = 0;

    void add(std::span<const float> x);
    [[nodiscard]] double magnitude() const noexcept;
};

// What a store records of a format, besides the codes.
struct CodeParameters {
    VectorCode code = VectorCode::kE4m3;
    std::int64_t dims = 0;
    int prescale = 0;                 // casts are of 2^prescale times the number
    std::vector<float> offset, step;  // u8: the number is offset + step * code
    float magnitude = 1;              // sign: the number is +-magnitude
};

class VectorCoder {
  public:
    explicit VectorCoder(CodeParameters parameters) : p_(std::move(parameters)) {}
    // With what the statistics say for int8 and signs.
    VectorCoder(VectorCode code, int prescale, const VectorStatistics& statistics);

    [[nodiscard]] const CodeParameters& parameters() const noexcept { return p_; }
    [[nodiscard]] std::int64_t bytes() const noexcept { return vector_bytes(p_.code, p_.dims); }
    // x: [dims], finite.
    void encode(const float* x, std::uint8_t* codes) const noexcept;
    // A code that stands for no number gives NaN or infinity.
    void decode(const std::uint8_t* codes, float* x) const noexcept;
    // The query whose products with codes (ops/scan.h) are those of `query` with the vectors, but
    // for a factor of all and, of int8, a term that is the same for all vectors. May be in place.
    void adapt(const float* query, float* out) const noexcept;

  private:
    CodeParameters p_;
};

}  // namespace thimble
