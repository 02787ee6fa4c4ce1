// SPDX-License-Identifier: Apache-2.0
#include "error_report.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace thimble {

Json tensor_json(const TensorReport& report) {
    const TensorChoice& choice = *report.choice;
    Json json = Json::object(), shape = Json::array();
    std::uint64_t elements = 1;
    for (const std::uint64_t extent : choice.tensor->dims) {
        shape.push(extent);
        elements *= extent;
    }
    json.set("name", choice.tensor->name);
    json.set("from", layout_info(choice.tensor->layout()).name);
    json.set("to", layout_info(choice.layout).name);
    json.set("shape", std::move(shape));
    json.set("source_bytes", report.bytes_in);
    json.set("bytes", report.bytes_out);
    json.set("bits_per_weight",
             8 * static_cast<double>(report.bytes_out) / static_cast<double>(elements));
    if (choice.copied) json.set("copied", true);
    if (choice.requantized) json.set("requantized", true);
    if (!choice.reason.empty()) json.set("reason", choice.reason);
    if (!choice.importance.empty()) json.set("importance", true);
    if (!choice.no_importance.empty()) json.set("no_importance", choice.no_importance);
    if (report.error) report.error->describe(json);
    return json;
}

JsonLines::JsonLines(const std::string& path, Print print) : path_(path), print_(std::move(print)) {
    if (path.empty() || path == "-") return;
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
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
