// SPDX-License-Identifier: Apache-2.0
#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace thimble {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLargeRead = std::size_t{256} << 10;
thread_local bool past_cache = false;

int open_for_reading(const std::string& path) {
    // O_NONBLOCK: a FIFO in a model directory must not hang the open.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        throw Error(Exit::kNoInput, escaped(path, 1024),
                    std::string("cannot open: ") + std::strerror(errno));
    }
    return fd;
}

std::string read_to_end(int fd, const std::string& where, std::uint64_t max_bytes) {
    std::string text;
    for (;;) {
        const std::size_t step = std::min<std::uint64_t>(std::max<std::size_t>(text.size(), 65536),
                                                         max_bytes + 1 - text.size());
        const std::size_t before = text.size();
        text.resize(before + step);
        const ssize_t got = ::read(fd, text.data() + before, step);
        if (got < 0 && errno == EINTR) {
            text.resize(before);
            continue;
        }
        if (got < 0) throw Error(Exit::kIo, where, std::string("read: ") + std::strerror(errno));
        text.resize(before + static_cast<std::size_t>(got));
        if (got == 0) return text;
        if (text.size() > max_bytes) {
            throw Error(Exit::kBadData, where,
                        "more than " + std::to_string(max_bytes) + " bytes of input");
        }
    }
}

}  // namespace

File::File(const std::string& path) : path_(path), fd_(open_for_reading(path)) {
    struct stat info {};
    const bool known = ::fstat(fd_, &info) == 0;
    if (!known || !S_ISREG(info.st_mode)) {
        ::close(fd_);
        throw Error(Exit::kBadData, escaped(path, 1024), "not a regular file");
    }
    bytes_ = static_cast<std::uint64_t>(info.st_size);
}

File::~File() {
    if (fd_ >= 0) ::close(fd_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_(std::exchange(other.bytes_, 0)) {}

File& File::operator=(File&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

File::PastCache::PastCache() noexcept { past_cache = true; }
File::PastCache::~PastCache() { past_cache = false; }

void File::read(std::uint64_t offset, std::span<std::byte> out) const {
    const auto address = reinterpret_cast<std::uintptr_t>(out.data());
    if (!past_cache || out.size() < kLargeRead || (address - offset) % kPage != 0)
        return read_cached(offset, out);
    const std::size_t head = (kPage - address % kPage) % kPage;
    const std::size_t pages = (out.size() - head) / kPage * kPage;
    read_cached(offset, out.first(head));
    const std::size_t done = head + read_past_cache(offset + head, out.subspan(head, pages));
    read_cached(offset + done, out.subspan(done));
}

// Whole pages; returns how far it came. What is missing, and every fault, is for the other way to
// find out.
std::size_t File::read_past_cache(std::uint64_t offset, std::span<std::byte> out) const {
    // This names the file that is open, whatever its path names by now.
    const std::string self = "/proc/self/fd/" + std::to_string(fd_);
    const int fd = ::open(self.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0) return 0;
    std::size_t done = 0;
    while (done < out.size()) {
        const ssize_t got =
            ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0 || static_cast<std::size_t>(got) % kPage != 0) break;
        done += static_cast<std::size_t>(got);
    }
    ::close(fd);
    return done;
}

void File::read_cached(std::uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            throw Error(Exit::kIo, escaped(path_, 1024),
                        "read at byte " + std::to_string(offset) + ": " +
                            (got == 0 ? "the file became shorter" : std::strerror(errno)));
        }
        offset += static_cast<std::uint64_t>(got);
        out = out.subspan(static_cast<std::size_t>(got));
    }
}

void File::check_unchanged() const {
    struct stat info {};
    if (::fstat(fd_, &info) != 0 || static_cast<std::uint64_t>(info.st_size) != bytes_) {
        throw Error(Exit::kIo, escaped(path_, 1024), "the file changed size while it was in use");
    }
}

std::string read_text_file(const std::string& path, std::uint64_t max_bytes) {
    struct Closer {
        int fd;
        ~Closer() { ::close(fd); }
    };
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        throw Error(Exit::kNoInput, escaped(path, 1024),
                    std::string("cannot open: ") + std::strerror(errno));
    }
    const Closer closer{fd};
    return read_to_end(fd, escaped(path, 1024), max_bytes);
}

std::string read_stdin(std::uint64_t max_bytes) {
    return read_to_end(STDIN_FILENO, "stdin", max_bytes);
}

}  // namespace thimble
