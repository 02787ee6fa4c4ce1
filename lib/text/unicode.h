// SPDX-License-Identifier: Apache-2.0
// The character classes that pre-tokenization patterns name: \p{L}, \p{N} and \s. Own tables, so
// that token ids do not depend on the Unicode version of a library on the machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace thimble {

enum class CharClass : std::uint8_t { kOther, kLetter, kNumber, kSpace };

// One character of untrusted text. A malformed byte stands for itself: one byte, kOther.
struct Char {
    char32_t code = 0;
    std::uint8_t bytes = 0;  // 0 at the end of the text
    CharClass kind = CharClass::kOther;
};

[[nodiscard]] CharClass classify(char32_t code) noexcept;
// The character at `at`; bytes == 0 when at >= text.size().
[[nodiscard]] Char char_at(std::string_view text, std::size_t at) noexcept;

}  // namespace thimble
