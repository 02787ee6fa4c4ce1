// SPDX-License-Identifier: Apache-2.0
// Where a model's tensors go: every tensor's place is fixed before the first byte, so they may
// come in any order, piece by piece, and the sizes are exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace thimble {

class TensorWriter {
  public:
    TensorWriter() = default;
    // Removes partial files unless finish() succeeded, or they are for a later run to go on with.
    virtual ~TensorWriter() = default;
    TensorWriter(const TensorWriter&) = delete;
    TensorWriter& operator=(const TensorWriter&) = delete;
    [[nodiscard]] virtual std::uint64_t file_bytes() const noexcept = 0;  // of all files together
    // Bytes at `offset` within the tensor's data; any order, each byte once.
    virtual void write(std::size_t tensor, std::uint64_t offset,
                       std::span<const std::byte> bytes) = 0;
    virtual void finish() = 0;  // all bytes must have been written

    // Tensors before `tensor` are written, and of it the bytes before `offset`.
    struct Position {
        std::size_t tensor = 0;
        std::uint64_t offset = 0;
    };
    // (optional) For writers that can go on where an earlier, killed run stopped: where that was,
    // and that what is before a position shall outlast a kill. Others begin anew.
    [[nodiscard]] virtual Position start() const noexcept { return {}; }
    virtual void checkpoint(Position) {}
    // Nothing shall be left for a later run; only the destructor follows.
    virtual void abandon() noexcept {}

  protected:
    // Bytes of a tensor, and those that count: bytes at or behind `kept`, of which an earlier run
    // stored all, so that storing them again does no harm.
    struct Progress {
        std::uint64_t kept = 0, written = 0;
        explicit Progress(std::uint64_t done = 0) : kept(done), written(done) {}
        void add(std::uint64_t offset, std::uint64_t bytes) noexcept {
            const std::uint64_t first = offset < kept ? kept : offset;
            if (offset + bytes > first) written += offset + bytes - first;
        }
    };
};

}  // namespace thimble
