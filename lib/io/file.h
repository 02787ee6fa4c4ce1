// SPDX-License-Identifier: Apache-2.0
// Read-only regular files opened once, and whole small files or stdin as text. The size is taken at
// opening; a file that shrinks later is reported as an I/O error, never as a crash of a read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace thimble {

class File {
  public:
    // Regular files only. Throws kNoInput (missing, unreadable) or kBadData (directory, device).
    explicit File(const std::string& path);
    ~File();
    File(File&& other) noexcept;
    File& operator=(File&& other) noexcept;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] int descriptor() const noexcept { return fd_; }
    // Fills `out` from `offset`; a short read is Error(kIo).
    void read(std::uint64_t offset, std::span<std::byte> out) const;
    // While one lives, large reads of its thread leave the page cache alone where the file system
    // can do that and the bytes' place within a page is the same in memory and file.
    class PastCache {
      public:
        PastCache() noexcept;
        ~PastCache();
        PastCache(const PastCache&) = delete;
        PastCache& operator=(const PastCache&) = delete;
    };
    // Throws kIo when the file's size is not the one seen at opening.
    void check_unchanged() const;

  private:
    void read_cached(std::uint64_t offset, std::span<std::byte> out) const;
    [[nodiscard]] std::size_t read_past_cache(std::uint64_t offset, std::span<std::byte> out) const;

    std::string path_;
    int fd_ = -1;
    std::uint64_t bytes_ = 0;
};

// Whole file; larger than max_bytes is Error(kBadData). Pipes and devices are read to their end.
[[nodiscard]] std::string read_text_file(const std::string& path, std::uint64_t max_bytes);
[[nodiscard]] std::string read_stdin(std::uint64_t max_bytes);

}  // namespace thimble
