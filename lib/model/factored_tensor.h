// SPDX-License-Identifier: Apache-2.0
// A matrix as the product of two thinner ones, in our GGUF files: of matrix t of a layer
//   t.a  [rank, cols]
//   t.b  [rows, rank]
// each an ordinary matrix of any format (a tensor, or planes and their own key), and
// "thimble.format.t" says {format, version, shape, rank, linear}. There is no tensor t, so that
// programs which know nothing of this refuse the file. Rows are read as F32, multiplied out;
// whoever multiplies by the matrix takes its factors.
#pragma once

#include <string>
#include <vector>

#include "model/linear.h"
#include "model/source.h"

namespace thimble {

inline constexpr std::string_view kFactoredFormat = "low-rank";

class FactoredTensor final : public PackedTensor {
  public:
    // Error(kBadData) naming `where` when the factors are not what `json` says, or not there.
    FactoredTensor(const ModelFile& file, const std::string& tensor, const Json& json, Shape2 shape,
                   const std::string& where);
    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override;

    [[nodiscard]] const SourceTensor& a() const noexcept { return a_; }
    [[nodiscard]] const SourceTensor& b() const noexcept { return b_; }
    [[nodiscard]] std::int64_t rank() const noexcept { return a_.rows(); }

  private:
    SourceTensor a_, b_;
};

// Names of its factors, and the value of its key.
[[nodiscard]] std::string factor_a_name(const std::string& tensor);
[[nodiscard]] std::string factor_b_name(const std::string& tensor);
[[nodiscard]] std::string describe_factors(Shape2 shape, std::int64_t rank);

// Null for tensors that are not in factors.
[[nodiscard]] const FactoredTensor* factored_of(const SourceTensor& tensor);
// The largest rank of a model's matrices in factors; 0: there are none.
[[nodiscard]] std::int64_t largest_rank(const ModelSource& source);

// What a matrix is multiplied by: itself, or its factors.
struct MatrixPart {
    enum Kind : std::uint8_t { kWhole, kA, kB };
    const SourceTensor* tensor = nullptr;
    Kind kind = kWhole;
};
[[nodiscard]] std::vector<MatrixPart> parts_of(const SourceTensor& matrix);
[[nodiscard]] const PackedView& part_view(const Linear& linear, MatrixPart::Kind kind);
void set_part(Linear& linear, MatrixPart::Kind kind, const PackedView& view);

}  // namespace thimble
