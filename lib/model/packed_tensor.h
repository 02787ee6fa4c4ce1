// SPDX-License-Identifier: Apache-2.0
// A matrix that its container holds as several tensors, or with its codes in another order than a
// packed layout has them: seen row by row in the layout's order, codes and scales as they are.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/packed.h"
#include "io/model_file.h"
#include "kernels/layout/isa.h"

namespace thimble {

class PackedTensor {
  public:
    virtual ~PackedTensor() = default;
    // Bytes of rows `rows` of one plane, one row after the other; of a table, all of it whatever
    // `rows` is.
    virtual void read(const ModelFile& file, std::size_t plane, RowRange rows,
                      std::span<std::byte> out) const = 0;

    // For what takes less room as it is stored than as it is read, and can be multiplied so: its
    // bytes in memory. 0: it is none such.
    [[nodiscard]] virtual std::size_t kept_bytes() const noexcept { return 0; }
    // The matrix, read into `memory` of that size, which outlives it.
    [[nodiscard]] virtual std::unique_ptr<const ops::CodedMatrix> keep(const ModelFile& file,
                                                                       std::byte* memory,
                                                                       Isa isa) const;

    [[nodiscard]] const PackedForm& form() const noexcept { return form_; }
    // Of the container, all that make up this matrix.
    [[nodiscard]] const std::vector<const TensorEntry*>& entries() const noexcept {
        return entries_;
    }
    [[nodiscard]] std::uint64_t stored_bytes() const noexcept {
        std::uint64_t sum = 0;
        for (const TensorEntry* entry : entries_) sum += entry->bytes;
        return sum;
    }

  protected:
    PackedForm form_;
    std::vector<const TensorEntry*> entries_;
};

// In our GGUF files: plane `p` of matrix `t` is tensor "t.p", and the key "thimble.format.t" holds
// JSON that says how they belong together. Null when there is no such key; Error(kBadData) naming
// the key when it and the tensors do not make a matrix of this shape.
[[nodiscard]] std::shared_ptr<const PackedTensor> find_stored_planes(const ModelFile& file,
                                                                     const std::string& tensor,
                                                                     Shape2 shape);
inline constexpr std::string_view kFormatKey = "thimble.format.";
// Of tensors that belong to no one matrix.
inline constexpr std::string_view kSharedPrefix = "thimble.shared.";
// What such a key says of the matrix's shape; nullopt where there is no key.
[[nodiscard]] std::optional<Shape2> stored_planes_shape(const ModelFile& file,
                                                        const std::string& tensor);
// What is to be written for such a matrix: its planes' tensors, in the form's order, without those
// that are not there; and the value of its key.
[[nodiscard]] std::vector<TensorSpec> plane_specs(const std::string& tensor,
                                                  const PackedForm& form);
[[nodiscard]] std::string describe_planes(const PackedForm& form, Shape2 shape);

}  // namespace thimble
