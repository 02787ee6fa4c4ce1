// SPDX-License-Identifier: Apache-2.0
#include "eval/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "io/lines.h"
#include "io/sha256.h"

namespace thimble::eval {
namespace {

Error failed(const std::string& path, const char* step) {
    return {Exit::kIo, escaped(path, 1024), std::string(step) + ": " + std::strerror(errno)};
}

Error cannot_create(const std::string& path, const std::string& what) {
    return {Exit::kCannotCreate, escaped(path, 1024), "cannot create: " + what};
}

const Json& at(const Json& record, const char* key, const std::string& where) {
    if (const Json* found = record.find(key)) return *found;
    throw Error(Exit::kBadData, where, std::string("key '") + key + "' is missing");
}

}  // namespace

Journal::Journal(std::string path, const Json& about) : path_(std::move(path)) {
    Json header = Json::object();
    header.set("schema", kSamplesSchema);
    header.set("key", sha256_of(about.dump()));
    header.set("about", about);
    header_ = header.dump();
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) throw cannot_create(path_, std::strerror(errno));
    struct stat info {};
    const bool regular = ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode);
    // File systems without locks answer with another error: writers are then not told apart.
    const bool locked = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (regular && !locked) return;
    ::close(fd_);
    throw cannot_create(path_, locked ? "another process is writing it" : "it is not a file");
}

Journal::~Journal() {
    if (samples_ == 0 && !settled_) ::unlink(path_.c_str());
    ::close(fd_);
}

void Journal::write(std::string_view line) {
    std::string text(line);
    text += '\n';
    for (std::string_view left = text; !left.empty();) {
        const ssize_t n = ::write(fd_, left.data(), left.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw failed(path_, "write");
        left.remove_prefix(static_cast<std::size_t>(n));
    }
    if (::fdatasync(fd_) != 0 && errno != EINVAL) throw failed(path_, "sync");
}

void Journal::cut(std::uint64_t bytes) {
    const auto length = static_cast<off_t>(bytes);
    if (::ftruncate(fd_, length) != 0) throw failed(path_, "truncate");
    if (::lseek(fd_, 0, SEEK_END) < 0) throw failed(path_, "seek");
}

void Journal::start_anew() {
    cut(0);
    write(header_);
}

std::int64_t Journal::replay(const Take& take) {
    LineReader lines(path_);
    std::string line;
    std::int64_t count = 0;
    if (!lines.next(line)) {
        start_anew();
        return 0;
    }
    if (!lines.terminated() || line != header_) {
        log_warning(escaped(path_, 1024) +
                    " is of another evaluation (other model, samples or options): starting over");
        start_anew();
        return 0;
    }
    std::uint64_t good_bytes = lines.consumed_bytes();
    try {
        while (lines.next(line) && lines.terminated()) {
            const std::string where = lines.where();
            const Json record = parse_json(line, where);
            take(at(record, "task", where).as_string(where),
                 at(record, "sample", where).as_int(where), at(record, "outcome", where), where);
            good_bytes = lines.consumed_bytes();
            ++count;
        }
    } catch (const Error& error) {
        if (error.exit() != Exit::kBadData) throw;
        log_warning(std::string(error.what()) + ": samples from there on are scored again");
    }
    cut(good_bytes);
    samples_ = count;
    return count;
}

void Journal::append(std::string_view task, std::int64_t sample, const Json& outcome) {
    Json record = Json::object();
    record.set("task", task);
    record.set("sample", sample);
    record.set("outcome", outcome);
    write(record.dump());
    ++samples_;
}

void Journal::keep_as(const std::string& path) {
    if (::rename(path_.c_str(), path.c_str()) != 0) throw failed(path, "rename the journal to");
    settled_ = true;
}

void Journal::remove() {
    if (::unlink(path_.c_str()) != 0 && errno != ENOENT) throw failed(path_, "remove");
    settled_ = true;
}

}  // namespace thimble::eval
