// SPDX-License-Identifier: Apache-2.0
// Writes one GGUF v3 file tensor by tensor, in bounded memory, atomically (`.partial`, fsync,
// rename).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "io/checkpointed_file.h"
#include "io/model_file.h"
#include "io/tensor_writer.h"

namespace thimble {

class GgufWriter final : public TensorWriter {
  public:
    // Every tensor's shape is known before the first byte, so offsets are fixed and the size is
    // exact. Throws kBadData (a name or shape the container cannot hold), kCannotCreate, or kIo
    // when the disk has less room than file_bytes(). A `build` other than "" makes checkpoints: it
    // names the program, for what an earlier run wrote counts only if header and program are the
    // same. Then the destructor leaves the partial file and its checkpoints.
    GgufWriter(const std::string& path, const Metadata& metadata, std::vector<TensorSpec> tensors,
               IfExists if_exists, std::string_view build = {});
    ~GgufWriter() override;
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override;
    void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) override;
    void finish() override;
    [[nodiscard]] Position start() const noexcept override;
    void checkpoint(Position position) override;
    void abandon() noexcept override;

    // What finish() does, for a file among several: throws kFailure when bytes are missing; then
    // the file is to be committed.
    void check_complete() const;
    [[nodiscard]] CheckpointedFile& file() noexcept;
    [[nodiscard]] const CheckpointedFile& file() const noexcept;

    // Size of the file that would be written, and of what precedes its tensors, which is held
    // while it is written.
    struct Prediction {
        std::uint64_t file_bytes = 0, header_bytes = 0;
    };
    [[nodiscard]] static Prediction predict(const Metadata& metadata,
                                            std::span<const TensorSpec> tensors);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
