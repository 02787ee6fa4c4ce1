// SPDX-License-Identifier: Apache-2.0
#include "io/checkpoint_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "core/error.h"
#include "io/file.h"

namespace thimble {
namespace {

constexpr std::string_view kMagic = "thimble checkpoints 1 ";
constexpr std::size_t kSumDigits = 64;
constexpr std::uint64_t kMaxBytes = std::uint64_t{64} << 20;

std::string line_of(const Checkpoint& entry) {
    return std::to_string(entry.end) + " " + entry.sha256 + "\n";
}

bool is_digit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

Error failed(const std::string& path, Exit exit) {
    return {exit, escaped(path, 1024),
            std::string("cannot keep checkpoints: ") + std::strerror(errno),
            "run without --resume"};
}

}  // namespace

std::vector<Checkpoint> parse_checkpoints(std::string_view text, std::string_view key) {
    std::vector<Checkpoint> entries;
    std::string head(kMagic);
    head.append(key).append("\n");
    if (!text.starts_with(head)) return entries;
    text.remove_prefix(head.size());
    for (std::size_t end; (end = text.find('\n')) != std::string_view::npos;) {
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(end + 1);
        Checkpoint entry;
        const auto number = std::from_chars(line.data(), line.data() + line.size(), entry.end);
        const auto digits = static_cast<std::size_t>(number.ptr - line.data());
        const std::string_view sum = line.substr(std::min(digits + 1, line.size()));
        const bool good = number.ec == std::errc{} && digits < line.size() && line[digits] == ' ' &&
                          sum.size() == kSumDigits && std::all_of(sum.begin(), sum.end(), is_digit);
        if (!good || (!entries.empty() && entry.end <= entries.back().end)) break;
        entry.sha256 = sum;
        entries.push_back(std::move(entry));
    }
    return entries;
}

std::vector<Checkpoint> read_checkpoints(const std::string& path, std::string_view key) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return {};
    return parse_checkpoints(read_text_file(path, kMaxBytes), key);
}

CheckpointLog::CheckpointLog(const std::string& path, std::string_view key)
    : path_(path), key_(key), entries_(read_checkpoints(path, key)) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) throw failed(path_, Exit::kCannotCreate);
}

CheckpointLog::~CheckpointLog() {
    if (fd_ >= 0) ::close(fd_);
}

void CheckpointLog::keep_first(std::size_t count) {
    entries_.resize(count);
    std::string text(kMagic);
    text += key_ + "\n";
    for (const Checkpoint& entry : entries_) text += line_of(entry);
    const auto size = static_cast<ssize_t>(text.size());
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, text.data(), text.size(), 0) != size ||
        ::lseek(fd_, 0, SEEK_END) < 0)
        throw failed(path_, Exit::kIo);
}

void CheckpointLog::append(const Checkpoint& entry) {
    const std::string line = line_of(entry);
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()) ||
        ::fdatasync(fd_) != 0)
        throw failed(path_, Exit::kIo);
    entries_.push_back(entry);
}

void CheckpointLog::remove() noexcept { ::unlink(path_.c_str()); }

}  // namespace thimble
