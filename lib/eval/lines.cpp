// SPDX-License-Identifier: Apache-2.0
#include "eval/lines.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace thimble::eval {

LineReader::LineReader(const std::string& path)
    : file_(path), buffer_(kBufferBytes, Purpose::kIo) {}

std::string LineReader::where() const {
    return escaped(file_.path(), 1024) + ": line " + std::to_string(line_);
}

std::string_view LineReader::fill() {
    if (begin_ == end_) {
        const std::uint64_t left = file_.bytes() - offset_;
        begin_ = 0;
        end_ = static_cast<std::size_t>(std::min<std::uint64_t>(left, kBufferBytes));
        if (end_ > 0) file_.read(offset_, {buffer_.data(), end_});
        offset_ += end_;
    }
    return {buffer_.as<char>() + begin_, end_ - begin_};
}

bool LineReader::next(std::string& line) {
    line.clear();
    std::string_view held = fill();
    if (held.empty()) return false;
    ++line_;
    for (terminated_ = false; !terminated_ && !held.empty(); held = fill()) {
        const std::size_t newline = held.find('\n');
        terminated_ = newline != std::string_view::npos;
        const std::size_t count = terminated_ ? newline + 1 : held.size();
        line += held.substr(0, terminated_ ? newline : count);
        begin_ += count;
        consumed_ += count;
        if (line.size() > kMostLineBytes) {
            throw Error(Exit::kBadData, where(),
                        "is longer than " + std::to_string(kMostLineBytes) + " bytes");
        }
    }
    return true;
}

void for_each_json_line(const std::string& path,
                        const std::function<bool(const Json&, const std::string&)>& take) {
    LineReader lines(path);
    std::string line;
    while (lines.next(line)) {
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        const std::string where = lines.where();
        if (!take(parse_json(line, where), where)) return;
    }
}

std::uint64_t line_reader_bytes() { return Buffer::charged_bytes(LineReader::kBufferBytes); }

}  // namespace thimble::eval
