// SPDX-License-Identifier: Apache-2.0
// Writes one GGUF v3 file tensor by tensor, in bounded memory, atomically (`.partial`, fsync,
// rename).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "io/atomic_file.h"
#include "io/model_file.h"

namespace thimble {

class GgufWriter {
  public:
    // Every tensor's shape is known before the first byte, so offsets are fixed and the size is
    // exact. Throws kBadData (a name or shape the container cannot hold), kCannotCreate, or kIo
    // when the disk has less room than file_bytes().
    GgufWriter(const std::string& path, const Metadata& metadata, std::vector<TensorSpec> tensors,
               IfExists if_exists);
    ~GgufWriter();  // removes the partial file unless finish() succeeded
    GgufWriter(const GgufWriter&) = delete;
    GgufWriter& operator=(const GgufWriter&) = delete;
    [[nodiscard]] std::uint64_t file_bytes() const noexcept;
    // Bytes at `offset` within the tensor's data; any order, each byte once.
    void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes);
    void finish();  // all bytes must have been written

    // Size of the file that would be written.
    [[nodiscard]] static std::uint64_t predict_bytes(const Metadata& metadata,
                                                     std::span<const TensorSpec> tensors);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
