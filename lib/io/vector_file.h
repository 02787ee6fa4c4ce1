// SPDX-License-Identifier: Apache-2.0
// Vectors on disk, one a row: a .npy array (io/npy.h) or a tensor of two dimensions in a
// safetensors file, of F32, F16 or BF16. Read piece by piece.
#pragma once

#include <memory>
#include <string>

#include "io/file.h"
#include "io/model_file.h"

namespace thimble {

class VectorFile {
  public:
    static constexpr std::uint64_t kMostDims = 65536;

    // Reads the header. `tensor`: which one of a safetensors file; "": the only one. Error(kUsage)
    // when there is no such one, Error(kBadData) when it holds no vectors.
    VectorFile(const std::string& path, const std::string& tensor);

    [[nodiscard]] const std::string& path() const noexcept { return file_.path(); }
    [[nodiscard]] std::int64_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::int64_t dims() const noexcept { return dims_; }
    // Rows [first, first + count); out: [count, dims]. Error(kBadData) naming the row with a number
    // that is not finite.
    void read(std::int64_t first, std::int64_t count, float* out) const;

  private:
    void take_npy();
    void take_safetensors(const std::string& tensor);

    File file_;
    TensorType type_ = TensorType::kF32;
    std::uint64_t offset_ = 0;
    std::int64_t rows_ = 0, dims_ = 0;
};

}  // namespace thimble
