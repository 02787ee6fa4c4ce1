// SPDX-License-Identifier: Apache-2.0
// What of a partial file is known to be good, in a small text beside it: per checkpoint, up to
// which byte and the SHA-256 of the bytes since the one before. A line is written only when those
// bytes are on the disk, and believed only when they still have that sum.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

struct Checkpoint {
    std::uint64_t end = 0;
    std::string sha256;  // of [end of the one before, end)
};

// The checkpoints of `text` as far as it is well-formed; none when it was written under another
// key. A cut last line does not count.
[[nodiscard]] std::vector<Checkpoint> parse_checkpoints(std::string_view text,
                                                        std::string_view key);

// The same of a file; none when there is no regular file.
[[nodiscard]] std::vector<Checkpoint> read_checkpoints(const std::string& path,
                                                       std::string_view key);

class CheckpointLog {
  public:
    // `key` stands for everything that the partial file's bytes depend on. Reads what is there.
    // Throws kCannotCreate.
    CheckpointLog(const std::string& path, std::string_view key);
    ~CheckpointLog();
    CheckpointLog(const CheckpointLog&) = delete;
    CheckpointLog& operator=(const CheckpointLog&) = delete;

    [[nodiscard]] const std::vector<Checkpoint>& entries() const noexcept { return entries_; }
    void keep_first(std::size_t count);  // forgets the others, on disk as well
    void append(const Checkpoint& entry);
    void remove() noexcept;  // the file; nothing may follow

  private:
    std::string path_, key_;
    std::vector<Checkpoint> entries_;
    int fd_ = -1;
};

}  // namespace thimble
