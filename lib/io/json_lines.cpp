// SPDX-License-Identifier: Apache-2.0
#include "io/json_lines.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace thimble {

JsonLines::JsonLines(const std::string& path, Print print, IfThere if_there)
    : path_(path), print_(std::move(print)) {
    if (path.empty() || path == "-") return;
    fd_ = ::open(
        path.c_str(),
        O_WRONLY | O_CREAT | O_CLOEXEC | (if_there == IfThere::kAppend ? O_APPEND : O_TRUNC), 0666);
    if (fd_ >= 0) return;
    throw Error(Exit::kCannotCreate, escaped(path, 1024),
                std::string("cannot create: ") + std::strerror(errno));
}

JsonLines::~JsonLines() {
    if (fd_ >= 0) ::close(fd_);
}

void JsonLines::write(const Json& line) {
    if (path_.empty()) return;
    const std::string text = line.dump() + "\n";
    if (path_ == "-") return print_(text);
    std::string_view rest = text;
    while (!rest.empty()) {
        const ssize_t n = ::write(fd_, rest.data(), rest.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error(Exit::kIo, escaped(path_, 1024), std::strerror(errno));
        rest.remove_prefix(static_cast<std::size_t>(n));
    }
}

}  // namespace thimble
