// SPDX-License-Identifier: Apache-2.0
// A bfloat16 matrix whose exponents are coded (kernels/layout/exponent_code.h), in our GGUF files:
//   t.rest   [rows, cols] I8   sign and mantissa of each weight
//   t.words  [n]          I16  the chunks' words, one chunk after the other
//   t.starts [chunks + 1] I32  where each chunk's begin, and their end
//   t.code   [32]         I8   exponents, then lengths, of the 16 symbols
// Chunks go on over the ends of rows. Rows are read as bfloat16, bit for bit.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/packed_tensor.h"
#include "ops/exponents.h"

namespace thimble {

inline constexpr std::string_view kCodedFormat = "dfloat11";

class CodedTensor final : public PackedTensor {
  public:
    // The planes of matrix `tensor`; Error(kBadData) naming `where` and what is wrong.
    CodedTensor(const ModelFile& file, const std::string& tensor, Shape2 shape, std::string where);
    // Error(kBadData) where the words are damaged.
    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override;
    [[nodiscard]] std::size_t kept_bytes() const noexcept override;
    [[nodiscard]] std::unique_ptr<const PackedTensor> keep(const ModelFile& file,
                                                           std::byte* memory) const override;

  private:
    // Some chunks, in memory.
    struct Piece {
        const std::uint16_t *words, *readable_end;
        const std::uint8_t* rest;
        std::vector<std::uint16_t> word_room;  // where they had to be read
        std::vector<std::uint8_t> rest_room;
    };
    CodedTensor(const CodedTensor& other, std::byte* memory);
    void open(const ModelFile& file) const;
    void fetch(const ModelFile& file, std::int64_t first, std::int64_t end, Piece& piece) const;
    [[nodiscard]] std::int64_t numbers() const noexcept { return shape_.rows * shape_.cols; }
    [[nodiscard]] Error damaged(const std::string& what) const;

    std::string where_;
    Shape2 shape_;
    const TensorEntry *rest_, *words_, *starts_, *code_;
    const std::byte* kept_ = nullptr;  // the words, then the rest, then room that may be read
    mutable std::once_flag opened_;
    mutable std::vector<std::uint32_t> chunk_starts_;
    mutable std::unique_ptr<ops::ExponentDecoder> decoder_;
};

[[nodiscard]] constexpr std::int64_t chunks_of(std::int64_t numbers) noexcept {
    return (numbers + ExponentCode::kChunk - 1) / ExponentCode::kChunk;
}
// What is to be written for a matrix of these dims whose chunks have `words` words in all.
[[nodiscard]] std::vector<TensorSpec> coded_specs(const std::string& tensor,
                                                  const std::vector<std::uint64_t>& dims,
                                                  std::uint64_t words);
enum CodedPlane : std::uint8_t { kCodedRest, kCodedWords, kCodedStarts, kCodedCode };
inline constexpr std::size_t kCodedPlanes = 4;

}  // namespace thimble
