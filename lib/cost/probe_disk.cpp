// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cost/probe.h"
#include "cost/timing.h"
#include "storage/scratch_file.h"

namespace thimble::cost {
namespace {

constexpr std::size_t kTransfer = std::size_t{4} << 20;

void write_all(const storage::ScratchFile& file, const Buffer& from, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes;) {
        const ssize_t n = ::pwrite(file.descriptor(), from.data(), kTransfer, at);
        if (n <= 0) file.fail("cannot write the file to measure the disk", n < 0 ? errno : EIO);
        at += n;
    }
    if (::fdatasync(file.descriptor()) != 0)
        file.fail("cannot sync the file to measure the disk", errno);
    // Without direct I/O the page cache is dropped before reading.
    if (!file.is_direct()) ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
}

void read_all(const storage::ScratchFile& file, Buffer& into, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes;) {
        const ssize_t n = ::pread(file.descriptor(), into.data(), kTransfer, at);
        if (n <= 0) file.fail("cannot read the file to measure the disk", n < 0 ? errno : EIO);
        at += n;
    }
}

}  // namespace

DiskRates disk_rates(const std::string& directory, std::int64_t bytes) {
    bytes -= bytes % static_cast<std::int64_t>(kTransfer);
    const storage::ScratchFile file(directory);
    Buffer transfer(kTransfer, Purpose::kIo);
    std::memset(transfer.data(), 0x5a, transfer.bytes());
    const double write = seconds_of([&] { write_all(file, transfer, bytes); });
    const double read = seconds_of([&] { read_all(file, transfer, bytes); });
    return {static_cast<double>(bytes) / read, static_cast<double>(bytes) / write};
}

}  // namespace thimble::cost
