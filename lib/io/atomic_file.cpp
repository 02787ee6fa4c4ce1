// SPDX-License-Identifier: Apache-2.0
#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

std::string where(const std::string& path) { return escaped(path, 1024); }

Error cannot_create(const std::string& path, const std::string& what, std::string hint = {}) {
    return {Exit::kCannotCreate, where(path), "cannot create: " + what, std::move(hint)};
}

Error write_failed(const std::string& path, const char* step, int code) {
    const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
    return {Exit::kIo, where(path), std::string(step) + ": " + std::strerror(code),
            full ? "free some space or write to another disk" : ""};
}

std::optional<struct stat> status(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return std::nullopt;
    return info;
}

std::string directory_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

// An existing target behind a symbolic link is replaced where it lies; the link stays.
std::string resolve_target(const std::string& path, IfExists if_exists) {
    if (path.empty()) throw Error(Exit::kUsage, "output", "the path is empty");
    const auto info = status(path);
    if (!info) return path;
    if (S_ISDIR(info->st_mode)) throw cannot_create(path, "it is a directory");
    if (!S_ISREG(info->st_mode)) throw cannot_create(path, "it is not a regular file");
    if (if_exists == IfExists::kRefuse) {
        throw cannot_create(path, "it exists", "remove it or choose another name");
    }
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
    return real ? std::string(real.get()) : path;
}

// The partial file, locked by this process, empty unless the leftover is kept.
int open_partial(const std::string& path, const std::string& partial, Leftover leftover) {
    for (;;) {
        const int fd = ::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) throw cannot_create(path, std::strerror(errno));
        // File systems without locks answer with another error: writers are then not told apart.
        if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            ::close(fd);
            throw cannot_create(path, "another process is writing it");
        }
        struct stat ours {};
        struct stat named {};
        const bool same = ::fstat(fd, &ours) == 0 && ::lstat(partial.c_str(), &named) == 0 &&
                          ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
        const bool sound = same && S_ISREG(ours.st_mode) && ours.st_nlink == 1;
        if (sound && (leftover == Leftover::kKeep || ::ftruncate(fd, 0) == 0)) return fd;
        ::close(fd);
        // Another writer finished between open and lock: its file is no longer the partial.
        if (same) throw cannot_create(path, where(partial) + " is in the way");
    }
}

void reserve(int fd, const std::string& path, std::uint64_t bytes) {
    struct statvfs disk {};
    struct stat own {};
    if (::fstatvfs(fd, &disk) == 0 && ::fstat(fd, &own) == 0) {
        const std::uint64_t held = static_cast<std::uint64_t>(own.st_blocks) * 512;
        const std::uint64_t free_bytes = std::uint64_t{disk.f_bavail} * disk.f_frsize;
        if (bytes > free_bytes + held) {
            throw Error(Exit::kIo, where(path),
                        "disk full: " + format_bytes(bytes) + " needed, " +
                            format_bytes(free_bytes) + " free",
                        "free some space or write to another disk");
        }
    }
    const auto length = static_cast<off_t>(bytes);
    if (::fallocate(fd, 0, 0, length) == 0) return;
    if (errno != EOPNOTSUPP && errno != ENOSYS) throw write_failed(path, "reserve space", errno);
    if (::ftruncate(fd, length) != 0) throw write_failed(path, "set size", errno);
}

void sync_directory(const std::string& directory) {
    const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;  // writable but not readable: the rename is done, only its time is open
    const int failed = ::fsync(fd) != 0 ? errno : 0;
    ::close(fd);
    if (failed != 0 && failed != EINVAL) throw write_failed(directory, "sync directory", failed);
}

void write_all(int fd, const std::string& path, std::uint64_t offset, bool positioned,
               std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t n = positioned
                              ? ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset))
                              : ::write(fd, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw write_failed(path, "write", errno);
        offset += static_cast<std::uint64_t>(n);
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path, std::uint64_t bytes, IfExists if_exists,
                       Leftover leftover)
    : path_(resolve_target(path, if_exists)),
      partial_(path_ + ".partial"),
      if_exists_(if_exists),
      leftover_(leftover),
      fd_(open_partial(path_, partial_, leftover)) {
    if (leftover == Leftover::kKeep) return;
    try {
        if (bytes > 0) reserve(fd_, path_, bytes);
    } catch (...) {
        ::unlink(partial_.c_str());
        ::close(fd_);
        throw;
    }
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      partial_(std::move(other.partial_)),
      if_exists_(other.if_exists_),
      leftover_(other.leftover_),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile::~AtomicFile() {
    if (fd_ < 0) return;
    if (leftover_ == Leftover::kDrop) ::unlink(partial_.c_str());
    ::close(fd_);
}

void AtomicFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
    write_all(fd_, path_, offset, true, bytes);
}

bool AtomicFile::read(std::uint64_t offset, std::span<std::byte> out) const noexcept {
    while (!out.empty()) {
        const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        offset += static_cast<std::uint64_t>(n);
        out = out.subspan(static_cast<std::size_t>(n));
    }
    return true;
}

void AtomicFile::keep_first(std::uint64_t end, std::uint64_t bytes) {
    if (::ftruncate(fd_, static_cast<off_t>(end)) != 0) throw write_failed(path_, "cut", errno);
    reserve(fd_, path_, bytes);
}

void AtomicFile::sync() {
    if (::fdatasync(fd_) != 0) throw write_failed(path_, "sync", errno);
}

void AtomicFile::commit() {
    if (::fsync(fd_) != 0) throw write_failed(path_, "sync", errno);
    const unsigned flags = if_exists_ == IfExists::kRefuse ? RENAME_NOREPLACE : 0;
    if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, path_.c_str(), flags) != 0) {
        // File systems without the flag: the check at opening has to do.
        if (errno != EINVAL || ::rename(partial_.c_str(), path_.c_str()) != 0)
            throw cannot_create(path_, std::strerror(errno));
    }
    ::close(std::exchange(fd_, -1));
    sync_directory(directory_of(path_));
}

void write_text_file(const std::string& path, std::string_view text, IfExists if_exists) {
    const auto bytes = std::as_bytes(std::span(text));
    const auto info = status(path);
    if (info && !S_ISREG(info->st_mode) && !S_ISDIR(info->st_mode)) {
        const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
        if (fd < 0) throw cannot_create(path, std::strerror(errno));
        try {
            write_all(fd, path, 0, false, bytes);
        } catch (...) {
            ::close(fd);
            throw;
        }
        ::close(fd);
        return;
    }
    AtomicFile file(path, bytes.size(), if_exists);
    file.write(0, bytes);
    file.commit();
}

void check_can_create(const std::string& path) {
    const auto info = status(path);
    if (info && S_ISDIR(info->st_mode)) throw cannot_create(path, "it is a directory");
    if (info && !S_ISREG(info->st_mode)) return;  // a device or pipe is written in place
    if (::faccessat(AT_FDCWD, directory_of(path).c_str(), W_OK | X_OK, AT_EACCESS) != 0)
        throw cannot_create(path, std::strerror(errno));
}

void refuse_overwriting_inputs(const std::string& output, std::span<const std::string> inputs) {
    const auto target = status(output);
    const bool kept = !target || S_ISREG(target->st_mode) || S_ISDIR(target->st_mode);
    if (!kept) return;  // a terminal or /dev/null may well be both
    for (const std::string& input : inputs) {
        const auto source = status(input);
        const bool same_file = target && source && target->st_ino == source->st_ino &&
                               target->st_dev == source->st_dev;
        if (same_file || input == output) {
            throw Error(Exit::kUsage, where(output), "the output is also the input",
                        "choose another output name");
        }
    }
}

}  // namespace thimble
