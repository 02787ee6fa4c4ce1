// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "core/strings.h"

namespace thimble {
namespace {

struct Range {
    char32_t first, last;
    CharClass kind;
};
constexpr Range kRanges[] = {
#include "text/unicode_tables.inc"
};

constexpr bool is_space(char32_t c) {
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

CharClass look_up(char32_t code) noexcept {
    if (is_space(code)) return CharClass::kSpace;
    const Range* after =
        std::upper_bound(std::begin(kRanges), std::end(kRanges), code,
                         [](char32_t c, const Range& range) { return c < range.first; });
    if (after == std::begin(kRanges)) return CharClass::kOther;
    const Range& range = *std::prev(after);
    return code <= range.last ? range.kind : CharClass::kOther;
}

// Everything up to the CJK blocks' start is looked up once; most text never searches.
constexpr char32_t kDirect = 0x3000;
const std::array<CharClass, kDirect>& direct() noexcept {
    static const auto table = [] {
        std::array<CharClass, kDirect> t{};
        for (char32_t c = 0; c < kDirect; ++c) t[c] = look_up(c);
        return t;
    }();
    return table;
}

}  // namespace

CharClass classify(char32_t code) noexcept {
    return code < kDirect ? direct()[code] : look_up(code);
}

Char char_at(std::string_view text, std::size_t at) noexcept {
    if (at >= text.size()) return {};
    const auto byte = [&](std::size_t i) {
        return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
    };
    const char32_t lead = byte(0);
    if (lead < 0x80) return {lead, 1, classify(lead)};
    char32_t code = lead;
    const std::size_t length = utf8_length(text.substr(at));
    switch (length) {
        case 2:
            code = (lead & 0x1f) << 6 | (byte(1) & 0x3f);
            break;
        case 3:
            code = (lead & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
            break;
        case 4:
            code = (lead & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 |
                   (byte(3) & 0x3f);
            break;
        default:
            return {lead, 1, CharClass::kOther};
    }
    return {code, static_cast<std::uint8_t>(length), classify(code)};
}

}  // namespace thimble
