// SPDX-License-Identifier: Apache-2.0
#include "storage/scratch_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::storage {
namespace {

int open_unnamed(const std::string& directory) {
    const int fd = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    // Not every file system has files without names.
    std::string name = directory + "/.thimble-scratch-XXXXXX";
    const int named = ::mkostemp(name.data(), O_CLOEXEC);
    if (named >= 0) ::unlink(name.c_str());
    return named;
}

}  // namespace

ScratchFile::ScratchFile(const std::string& directory)
    : directory_(escaped(directory, 1024)), fd_(open_unnamed(directory)) {
    if (fd_ < 0) {
        throw Error(Exit::kCannotCreate, directory_,
                    std::string("cannot create a file in it: ") + std::strerror(errno));
    }
    direct_ = ::fcntl(fd_, F_SETFL, O_DIRECT) == 0;
}

ScratchFile::~ScratchFile() { ::close(fd_); }

bool ScratchFile::in_memory() const {
    struct statfs info {};
    return ::fstatfs(fd_, &info) == 0 && (info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC);
}

void ScratchFile::extend(std::uint64_t more) {
    struct statfs info {};
    if (::fstatfs(fd_, &info) != 0) fail("look at the file system", errno);
    const std::uint64_t room =
        static_cast<std::uint64_t>(info.f_bavail) * static_cast<std::uint64_t>(info.f_bsize);
    if (more > room) {
        throw Error(Exit::kIo, directory_,
                    "has " + format_bytes(room) + " free, " + format_bytes(more) + " are needed",
                    "free some space or choose another disk");
    }
    const auto begin = static_cast<off_t>(bytes_), length = static_cast<off_t>(more);
    if (::fallocate(fd_, 0, begin, length) != 0) {
        // Some can only be told how long the file is; then a disk that fills up is noticed later.
        if (errno != EOPNOTSUPP || ::ftruncate(fd_, begin + length) != 0)
            fail("take " + format_bytes(more), errno);
    }
    bytes_ += more;
}

void ScratchFile::fail(const std::string& what, int code) const {
    const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
    throw Error(Exit::kIo, directory_, what + ": " + std::strerror(code),
                full ? "free some space or choose another disk" : "");
}

}  // namespace thimble::storage
