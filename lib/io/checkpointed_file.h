// SPDX-License-Identifier: Apache-2.0
// An atomic file that a killed run can go on with: beside the partial file lies a CheckpointLog of
// what of it is known to be good, read back before it is believed.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "io/atomic_file.h"
#include "io/checkpoint_log.h"

namespace thimble {

// Of a file that follows from its header and the program that writes it; "" when `build` is.
[[nodiscard]] std::string checkpoint_key(std::string_view header, std::string_view build);

class CheckpointedFile {
  public:
    // `key` stands for everything that the `bytes` bytes depend on; "": no checkpoints, and those
    // of an earlier run are removed. Else the partial file is kept when this ends without commit(),
    // and a file that an earlier run had settled and committed is taken back. Throws as AtomicFile
    // and CheckpointLog do.
    CheckpointedFile(const std::string& path, std::uint64_t bytes, IfExists if_exists,
                     std::string_view key);

    [[nodiscard]] const std::string& path() const noexcept { return file_.path(); }
    // What precedes it need not be written again.
    [[nodiscard]] std::uint64_t checked() const noexcept { return checked_; }
    void write(std::uint64_t offset, std::span<const std::byte> bytes) {
        file_.write(offset, bytes);
    }
    // All before `end` is written and shall outlast a kill.
    void checkpoint(std::uint64_t end);
    void sync() { file_.sync(); }
    void commit();

    // For several files that appear one after the other: settle() all, commit() all, forget() all.
    // One that is alone is forgotten before its commit, lest its checkpoints outlive it.
    void settle() { checkpoint(bytes_); }
    void forget() noexcept;
    // Nothing of it shall remain, checkpoints neither.
    void abandon() noexcept;

    [[nodiscard]] static std::string log_path(const std::string& path) {
        return path + ".partial.checkpoints";
    }

  private:
    void take_over();
    // SHA-256 of the file's bytes [begin, end); "" when they are not there.
    [[nodiscard]] std::string sum(std::uint64_t begin, std::uint64_t end) const;

    std::uint64_t bytes_ = 0, checked_ = 0;
    bool taken_back_ = false;  // before file_: it decides what that opens
    AtomicFile file_;
    std::unique_ptr<CheckpointLog> log_;
};

}  // namespace thimble
