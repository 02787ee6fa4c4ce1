// SPDX-License-Identifier: Apache-2.0
// A matrix of floats whose exponents are coded (kernels/layout/exponent_code.h), in our GGUF files:
//   t.rest   [rows, cols] I8   sign and mantissa of each weight, in the order of the codes
//   t.words  [n]          I16  the chunks' words, one chunk after the other
//   t.starts [chunks + 1] I32  where each chunk's begin, and their end
//   t.code   [32]         I8   exponents, then lengths, of the 16 symbols
//   t.low    [n]          I8   of F32 and F16 the mantissas' low bits (format/float_split.h), row
//   by
//                              row; not there where all are zero
// The key "thimble.format.t" says of which type; rows are read in it, bit for bit.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "format/float_split.h"
#include "model/packed_tensor.h"
#include "ops/exponents.h"

namespace thimble {

inline constexpr std::string_view kCodedFormat = "dfloat11";
// Of a file that another can be made from, byte for byte: says which.
inline constexpr std::string_view kLosslessKey = "thimble.lossless";
inline constexpr int kCodedVersion = 2;  // 1 had chunks of rows and codes of 8 bits

class CodedTensor final : public PackedTensor {
  public:
    // The planes of matrix `tensor`; Error(kBadData) naming `where` and what is wrong.
    CodedTensor(const ModelFile& file, const std::string& tensor, Shape2 shape, FloatKind kind,
                std::string where);
    // Error(kBadData) where the words are damaged.
    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override;
    [[nodiscard]] std::size_t kept_bytes() const noexcept override;
    // Error(kBadData) where the planes do not belong together; words are not looked at.
    [[nodiscard]] std::unique_ptr<const ops::CodedMatrix> keep(const ModelFile& file,
                                                               std::byte* memory,
                                                               Isa isa) const override;

  private:
    // Some strips, as they are stored.
    struct Piece {
        std::vector<std::uint16_t> words;
        std::vector<std::uint8_t> rest;
    };
    void open(const ModelFile& file) const;
    [[nodiscard]] std::size_t start(std::int64_t strip) const;
    void fetch(const ModelFile& file, std::int64_t first, std::int64_t end, Piece& piece) const;
    void join(const ModelFile& file, RowRange rows, std::span<const std::uint16_t> high,
              std::span<std::byte> out) const;
    [[nodiscard]] Error damaged(const std::string& what) const;

    std::string where_;
    ExponentChunks chunks_;
    FloatKind kind_;
    const TensorEntry *rest_, *words_, *starts_, *code_entry_, *low_ = nullptr;
    mutable std::once_flag opened_;
    mutable std::vector<std::uint32_t> chunk_starts_;
    mutable ExponentCode code_;
    mutable std::unique_ptr<ops::ExponentDecoder> decoder_;
};

// What is to be written for a matrix of these dims whose chunks have `words` words in all; `low`:
// bytes of that plane, 0 without it.
[[nodiscard]] std::vector<TensorSpec> coded_specs(const std::string& tensor,
                                                  const std::vector<std::uint64_t>& dims,
                                                  std::uint64_t words, std::uint64_t low);
enum CodedPlane : std::uint8_t { kCodedRest, kCodedWords, kCodedStarts, kCodedCode, kCodedLow };
inline constexpr std::size_t kCodedPlanes = 5;

// The value of the key that says how such a matrix is stored, and what it says of the type.
[[nodiscard]] std::string describe_coded(Shape2 shape, FloatKind kind);
[[nodiscard]] FloatKind coded_kind(const Json& description, std::string_view where);
// Of a tensor's type; nullopt: none whose exponents are coded.
[[nodiscard]] std::optional<FloatKind> float_kind(TensorType type) noexcept;

}  // namespace thimble
