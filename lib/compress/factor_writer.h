// SPDX-License-Identifier: Apache-2.0
// Writes a model some of whose matrices are in factors (model/factored_tensor.h) as one GGUF file.
// All else keeps its codes byte for byte.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/team.h"
#include "format/weight_format.h"
#include "io/tensor_writer.h"
#include "kernels/layout/isa.h"
#include "model/source.h"

namespace thimble {

// Of matrices: the rank, where it is not 0, and the format of the factors.
struct FactorChoice {
    std::int64_t rank = 0;
    SharedFormat format;
};
using FactorChoices = std::map<const SourceTensor*, FactorChoice>;

// One matrix or vector of the output.
struct FactorOutput {
    const SourceTensor* from = nullptr;
    std::string name;
    Shape2 shape;
    SharedFormat format;  // null: rows are copied as they are stored
    PackedForm form;
    std::size_t first_spec = 0;
};

class FactorWriter {
  public:
    FactorWriter(const ModelSource& source, const FactorChoices& choices);

    [[nodiscard]] const std::vector<TensorSpec>& specs() const noexcept { return specs_; }
    // The output's, without provenance.
    [[nodiscard]] Metadata metadata() const;
    // Those that are no factors.
    [[nodiscard]] const std::vector<FactorOutput>& copied() const noexcept { return copied_; }
    void copy(const FactorOutput& tensor, TensorWriter& writer) const;
    // A matrix of a rank: a [rank, cols], b [rows, rank].
    void store(const SourceTensor& matrix, std::span<const float> a, std::span<const float> b,
               Isa isa, TensorWriter& writer) const;
    [[nodiscard]] static std::uint64_t buffer_bytes(const ModelSource& source);

  private:
    struct Pair {
        FactorOutput a, b;
    };
    void add_spec(FactorOutput& tensor);
    static void encode(const FactorOutput& tensor, std::span<const float> values, Isa isa,
                       TensorWriter& writer);

    const ModelSource& source_;
    std::vector<FactorOutput> copied_;
    std::map<const SourceTensor*, Pair> factors_;
    std::vector<TensorSpec> specs_;
};

// Bytes of a matrix in factors of this format.
[[nodiscard]] std::uint64_t factored_bytes(const WeightFormat& format, Shape2 shape,
                                           std::int64_t rank);

}  // namespace thimble
