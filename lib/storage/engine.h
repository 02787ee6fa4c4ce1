// SPDX-License-Identifier: Apache-2.0
// What moves bytes between memory and a file in the background.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace thimble::storage {

// One system call's worth of a transfer.
struct Piece {
    bool writes = false;
    int descriptor = -1;
    std::uint64_t offset = 0;
    std::byte* data = nullptr;
    std::size_t bytes = 0;
    std::uint64_t ticket = 0;  // of the transfer
};

class IoEngine {
  public:
    // Bytes moved, perhaps fewer than the piece has, or a negative errno. Called on a thread of the
    // engine's; may start another piece.
    using Done = std::function<void(const Piece& piece, std::int64_t result)>;

    virtual ~IoEngine() = default;  // nothing may be in flight
    [[nodiscard]] virtual std::string_view name() const noexcept = 0;
    // Pieces begin in this order and end in any.
    virtual void start(const Piece& piece) = 0;
};

// Null where the system refuses io_uring (seccomp in containers, kernels before 5.6): `why_not`
// says so.
[[nodiscard]] std::unique_ptr<IoEngine> make_uring_engine(IoEngine::Done done,
                                                          std::string& why_not);
[[nodiscard]] std::unique_ptr<IoEngine> make_thread_engine(IoEngine::Done done);

}  // namespace thimble::storage
