// SPDX-License-Identifier: Apache-2.0
// A matrix as a sum of signed blocks of low rank (kernels/cpu/stack_problem.h has the paper), in
// our GGUF files. Block l, from 0 on, of matrix t is tensor "t.l<l>" of I8, which is read as a
// whole:
//   signs  [rows, sign_row_bytes(cols)]; then zeros up to a multiple of 4 bytes
//   a      [rows, rank] F16
//   b      [cols, rank] F16
//   scale  F32
// and "thimble.format.t" says {format, version, shape, rank, levels, linear}. The first n blocks
// are the matrix less exactly. For the whole model
//   thimble.bitstack.linears  the names of all such matrices
//   thimble.bitstack.order    of each block, in the order in which they are worth their memory, the
//                             index of its matrix; a matrix' blocks come one after the other
// Rows are read as F32, all blocks summed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/packed_tensor.h"
#include "ops/stack.h"

namespace thimble {

class ModelSource;
struct SourceTensor;

inline constexpr std::string_view kStackedFormat = "bitstack";
inline constexpr std::string_view kStackLinearsKey = "thimble.bitstack.linears";
inline constexpr std::string_view kStackOrderKey = "thimble.bitstack.order";
inline constexpr std::int64_t kMostStackLevels = 64, kMostStackRank = 4096;

// Where the parts of a block lie.
struct StackForm {
    StackForm(Shape2 shape, std::int64_t rank);
    Shape2 shape;
    std::int64_t rank = 0;
    std::size_t sign_bytes = 0, a = 0, b = 0, scale = 0, bytes = 0;
    [[nodiscard]] ops::SignedBlock block(const std::byte* data) const noexcept;
};

class StackedTensor final : public PackedTensor {
  public:
    // Error(kBadData) naming `where` when the blocks are not what `json` says, or not all there.
    StackedTensor(const ModelFile& file, const std::string& tensor, const Json& json, Shape2 shape,
                  std::string where);
    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override;

    [[nodiscard]] const StackForm& stack() const noexcept { return stack_; }
    [[nodiscard]] std::int64_t levels() const noexcept { return std::ssize(entries_); }
    // Reads block `level` to `memory` of stack().bytes; Error(kBadData) where a number is not
    // finite.
    [[nodiscard]] ops::SignedBlock load(const ModelFile& file, std::int64_t level,
                                        std::byte* memory) const;

  private:
    [[nodiscard]] Error damaged(const std::string& what) const;

    std::string where_;
    StackForm stack_;
};

// What is to be written for such a matrix: the name of a block and the value of its key.
[[nodiscard]] std::string stack_block_name(const std::string& tensor, std::int64_t level);
[[nodiscard]] std::string describe_stack(const StackForm& form, std::int64_t levels);

// Null for tensors that are not in blocks.
[[nodiscard]] const StackedTensor* stacked_of(const SourceTensor& tensor);
[[nodiscard]] bool any_stacked(const ModelSource& source);

// All blocks of a model in the order in which they are loaded.
struct StackOrder {
    std::vector<const SourceTensor*> linears;
    std::vector<std::int32_t> order;  // of each block: its matrix
};
// Error(kBadData) where the file's keys do not name each block once, the first of every matrix
// before all others.
[[nodiscard]] StackOrder read_stack_order(const ModelSource& source);

}  // namespace thimble
