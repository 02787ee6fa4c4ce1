// SPDX-License-Identifier: Apache-2.0
#include "core/error.h"

#include "core/strings.h"

namespace thimble {

Error::Error(Exit exit, std::string where, std::string what, std::string hint)
    : exit_(exit), where_(std::move(where)), problem_(std::move(what)), hint_(std::move(hint)) {
    text_ = where_.empty() ? problem_ : where_ + ": " + problem_;
    if (!hint_.empty()) text_ += " (" + hint_ + ")";
}

std::string escaped(std::string_view text, std::size_t max_bytes) {
    static constexpr char kHex[] = "0123456789abcdef";
    std::string out;
    std::size_t i = 0;
    while (i < text.size() && out.size() < max_bytes) {
        const auto c = static_cast<unsigned char>(text[i]);
        const std::size_t length = utf8_length(text.substr(i));
        if (length > 1 || (length == 1 && c >= 0x20 && c != 0x7f)) {
            out.append(text.substr(i, length));
            i += length;
            continue;
        }
        out += "\\x";
        out += kHex[c >> 4];
        out += kHex[c & 15];
        ++i;
    }
    if (i < text.size()) out += "...";
    return out;
}

}  // namespace thimble
