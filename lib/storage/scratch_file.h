// SPDX-License-Identifier: Apache-2.0
// A file without a name, or with one that is removed at once: it is gone with the process, however
// that ends. Read and written past the page cache where the file system can do that.
#pragma once

#include <cstdint>
#include <string>

namespace thimble::storage {

class ScratchFile {
  public:
    // Throws kCannotCreate.
    explicit ScratchFile(const std::string& directory);
    ~ScratchFile();
    ScratchFile(const ScratchFile&) = delete;
    ScratchFile& operator=(const ScratchFile&) = delete;

    // As errors name it.
    [[nodiscard]] const std::string& directory() const noexcept { return directory_; }
    [[nodiscard]] int descriptor() const noexcept { return fd_; }
    [[nodiscard]] bool is_direct() const noexcept { return direct_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    // Its file system keeps files in memory.
    [[nodiscard]] bool in_memory() const;
    // Takes `more` bytes of the disk; they read as zeros. Error(kIo) when it has not as many.
    void extend(std::uint64_t more);
    // Error(kIo): "read: Input/output error"
    [[noreturn]] void fail(const std::string& what, int code) const;

  private:
    std::string directory_;
    int fd_ = -1;
    bool direct_ = false;
    std::uint64_t bytes_ = 0;
};

}  // namespace thimble::storage
