// SPDX-License-Identifier: Apache-2.0
// Small text helpers shared by every folder: UTF-8 stepping, byte sizes, nearest names.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

// Bytes of the well-formed UTF-8 character at the start of `text`; 0 if it is malformed, cut or
// empty.
[[nodiscard]] std::size_t utf8_length(std::string_view text) noexcept;
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;
void append_utf8(std::string& out, char32_t code_point);

// "1.5GiB", "200M", "4096" -> bytes. K/M/G/T and KiB/MiB/... are powers of 1024, kB/MB/GB/TB of
// 1000. `where` names the flag for the error (exit 2).
[[nodiscard]] std::uint64_t parse_bytes(std::string_view text, std::string_view where);
// 1536 -> "1.5 KiB"
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);

// The candidate with the least edit distance, or "" when none is near enough to suggest.
[[nodiscard]] std::string nearest(std::string_view name, std::span<const std::string> candidates);
// "; did you mean 'x'?" or ""
[[nodiscard]] std::string did_you_mean(std::string_view name,
                                       std::span<const std::string> candidates);

[[nodiscard]] std::vector<std::string> split(std::string_view text, char separator);
[[nodiscard]] std::string to_lower(std::string_view text);

}  // namespace thimble
