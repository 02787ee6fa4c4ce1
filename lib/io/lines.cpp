// SPDX-License-Identifier: Apache-2.0
#include "io/lines.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace thimble {

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

bool LineReader::take(std::string& line, std::size_t most_bytes) {
    line.clear();
    std::string_view held = fill();
    if (held.empty()) return false;
    if (terminated_) ++line_;
    for (terminated_ = false; !terminated_ && !held.empty(); held = fill()) {
        held = held.substr(0, most_bytes - line.size() + 1);  // room for a newline
        const std::size_t newline = held.find('\n');
        terminated_ = newline != std::string_view::npos;
        const std::size_t text =
            terminated_ ? newline : std::min(held.size(), most_bytes - line.size());
        line += held.substr(0, text);
        begin_ += text + (terminated_ ? 1 : 0);
        consumed_ += text + (terminated_ ? 1 : 0);
        if (!terminated_ && text < held.size()) break;  // it goes on
    }
    return true;
}

bool LineReader::next(std::string& line) {
    if (!take(line, kMostLineBytes)) return false;
    if (!terminated_ && !fill().empty()) {
        throw Error(Exit::kBadData, where(),
                    "is longer than " + std::to_string(kMostLineBytes) + " bytes");
    }
    return true;
}

bool LineReader::next_part(std::string& part, std::size_t most_bytes) {
    return take(part, most_bytes);
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

}  // namespace thimble
