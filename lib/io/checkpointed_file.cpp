// SPDX-License-Identifier: Apache-2.0
#include "io/checkpointed_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/error.h"
#include "io/file.h"
#include "io/sha256.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

// SHA-256 of bytes [begin, end), fetched piece by piece; "" when they are not there.
template <class Read>
std::string sum_of(std::uint64_t begin, std::uint64_t end, Read&& read) {
    Buffer buffer(kHashBufferBytes, Purpose::kIo);
    Sha256 hash;
    while (begin < end) {
        const auto piece =
            buffer.span<std::byte>().first(std::min<std::uint64_t>(buffer.bytes(), end - begin));
        if (!read(begin, piece)) return "";
        hash.update(piece);
        begin += piece.size();
    }
    return hash.finish();
}

bool is_regular(const std::string& path) {
    struct stat info {};
    return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

// A run killed between the commits of its files has left this one under its name already: makes it
// the partial file again, if every byte has the sum that was noted.
bool take_back(const std::string& path, std::uint64_t bytes, std::string_view key) {
    const std::string partial = path + ".partial";
    if (!is_regular(path) || is_regular(partial)) return false;
    const std::vector<Checkpoint> noted = read_checkpoints(CheckpointedFile::log_path(path), key);
    if (noted.empty() || noted.back().end != bytes) return false;
    const File file(path);
    if (file.bytes() != bytes) return false;
    std::uint64_t begin = 0;
    for (const Checkpoint& entry : noted) {
        const std::string sum =
            sum_of(begin, entry.end, [&](std::uint64_t at, std::span<std::byte> out) {
                file.read(at, out);
                return true;
            });
        if (sum != entry.sha256) return false;
        begin = entry.end;
    }
    return std::rename(path.c_str(), partial.c_str()) == 0;
}

}  // namespace

std::string checkpoint_key(std::string_view header, std::string_view build) {
    return build.empty() ? "" : sha256_of(sha256_of(header) + std::string(build));
}

CheckpointedFile::CheckpointedFile(const std::string& path, std::uint64_t bytes, IfExists if_exists,
                                   std::string_view key)
    : bytes_(bytes),
      taken_back_(!key.empty() && take_back(path, bytes, key)),
      file_(path, bytes, if_exists, key.empty() ? Leftover::kDrop : Leftover::kKeep) {
    const std::string log = log_path(file_.path());
    if (key.empty()) {
        ::unlink(log.c_str());  // of a run that made checkpoints
        return;
    }
    log_ = std::make_unique<CheckpointLog>(log, key);
    take_over();
}

// What an earlier run of the same work left, as far as its sums hold.
void CheckpointedFile::take_over() {
    std::size_t good = 0;
    for (const Checkpoint& entry : log_->entries()) {
        if (entry.end > bytes_) break;
        if (!taken_back_ && sum(checked_, entry.end) != entry.sha256) break;
        checked_ = entry.end;
        ++good;
    }
    log_->keep_first(good);
    file_.keep_first(checked_, bytes_);
}

std::string CheckpointedFile::sum(std::uint64_t begin, std::uint64_t end) const {
    return sum_of(begin, end,
                  [&](std::uint64_t at, std::span<std::byte> out) { return file_.read(at, out); });
}

void CheckpointedFile::checkpoint(std::uint64_t end) {
    if (!log_ || end <= checked_) return;
    file_.sync();
    const std::string read_back = sum(checked_, end);
    if (read_back.empty()) throw Error(Exit::kIo, escaped(path(), 1024), "cannot be read back");
    log_->append({end, read_back});
    checked_ = end;
}

void CheckpointedFile::commit() { file_.commit(); }

void CheckpointedFile::forget() noexcept {
    if (log_) log_->remove();
    log_.reset();
}

void CheckpointedFile::abandon() noexcept {
    forget();
    file_.drop();
}

}  // namespace thimble
