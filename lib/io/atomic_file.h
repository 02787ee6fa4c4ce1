// SPDX-License-Identifier: Apache-2.0
// A file that appears under its name whole or not at all: bytes go to `<path>.partial`, which is
// synced and renamed by commit() and removed otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace thimble {

enum class IfExists : std::uint8_t { kRefuse, kReplace };
// What becomes of the bytes that a killed run left in the partial file.
enum class Leftover : std::uint8_t { kDrop, kKeep };

class AtomicFile {
  public:
    // Owns `<path>.partial` by a lock, so two writers of one output cannot mix and the rest of a
    // killed run is reused. `bytes` > 0: checks for free space and reserves it. Throws
    // kCannotCreate, or kIo when the disk has less room than `bytes`. With Leftover::kKeep the
    // partial file's bytes stay, now and when this ends without commit(); keep_first() must follow.
    AtomicFile(const std::string& path, std::uint64_t bytes, IfExists if_exists,
               Leftover leftover = Leftover::kDrop);
    ~AtomicFile();
    AtomicFile(AtomicFile&& other) noexcept;
    AtomicFile& operator=(AtomicFile&& other) = delete;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    void write(std::uint64_t offset, std::span<const std::byte> bytes);  // Error(kIo) if it cannot
    // What is there; false when it is less or cannot be read.
    [[nodiscard]] bool read(std::uint64_t offset, std::span<std::byte> out) const noexcept;
    // Of a kept leftover: forgets what follows `end`, and reserves `bytes` in all.
    void keep_first(std::uint64_t end, std::uint64_t bytes);
    void drop() noexcept { leftover_ = Leftover::kDrop; }  // a kept leftover after all
    void sync();    // the bytes written so far are on the disk
    void commit();  // sync, rename, sync the directory; once

  private:
    std::string path_, partial_;
    IfExists if_exists_ = IfExists::kRefuse;
    Leftover leftover_ = Leftover::kDrop;
    int fd_ = -1;
};

// Whole text in one step. An existing FIFO or device ("/dev/stdout", "/dev/null", a process
// substitution) is written to directly.
void write_text_file(const std::string& path, std::string_view text, IfExists if_exists);

// Throws Error(kCannotCreate) when `path` could not be written: before long work, not after it.
void check_can_create(const std::string& path);

// Throws Error(kUsage) when `output` names the same file as one of `inputs` (same path or inode).
void refuse_overwriting_inputs(const std::string& output, std::span<const std::string> inputs);

}  // namespace thimble
