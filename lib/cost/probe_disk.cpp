// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "cost/probe.h"
#include "cost/timing.h"

namespace thimble::cost {
namespace {

constexpr std::size_t kTransfer = std::size_t{4} << 20;

// A file without a name, or with one that is removed at once.
class ScratchFile {
  public:
    explicit ScratchFile(const std::string& directory) : directory_(directory) {
        fd_ = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd_ < 0) {
            std::string name = directory + "/.thimble-probe-XXXXXX";
            fd_ = ::mkstemp(name.data());
            if (fd_ < 0) {
                throw Error(Exit::kCannotCreate, directory,
                            std::string("cannot create a file to measure the disk: ") +
                                std::strerror(errno));
            }
            ::unlink(name.c_str());
        }
        // Not every file system takes direct I/O; then the page cache is dropped before reading.
        direct_ = ::fcntl(fd_, F_SETFL, O_DIRECT) == 0;
    }
    ~ScratchFile() { ::close(fd_); }
    ScratchFile(const ScratchFile&) = delete;
    ScratchFile& operator=(const ScratchFile&) = delete;

    void write(const Buffer& from, std::int64_t bytes) const {
        for (std::int64_t at = 0; at < bytes;) {
            const ssize_t n = ::pwrite(fd_, from.data(), kTransfer, at);
            if (n <= 0) fail("write");
            at += n;
        }
        if (::fdatasync(fd_) != 0) fail("sync");
        if (!direct_) ::posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
    }
    void read(Buffer& into, std::int64_t bytes) const {
        for (std::int64_t at = 0; at < bytes;) {
            const ssize_t n = ::pread(fd_, into.data(), kTransfer, at);
            if (n <= 0) fail("read");
            at += n;
        }
    }

  private:
    [[noreturn]] void fail(const char* what) const {
        throw Error(Exit::kIo, directory_,
                    std::string("cannot ") + what +
                        " the file to measure the disk: " + std::strerror(errno));
    }
    std::string directory_;
    int fd_ = -1;
    bool direct_ = false;
};

}  // namespace

DiskRates disk_rates(const std::string& directory, std::int64_t bytes) {
    bytes -= bytes % static_cast<std::int64_t>(kTransfer);
    const ScratchFile file(directory);
    Buffer transfer(kTransfer, Purpose::kIo);
    std::memset(transfer.data(), 0x5a, transfer.bytes());
    const double write = seconds_of([&] { file.write(transfer, bytes); });
    const double read = seconds_of([&] { file.read(transfer, bytes); });
    return {static_cast<double>(bytes) / read, static_cast<double>(bytes) / write};
}

}  // namespace thimble::cost
