// SPDX-License-Identifier: Apache-2.0
// Size arithmetic that cannot wrap, for every number that comes from a file or a user.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace thimble {

[[nodiscard]] inline std::optional<std::uint64_t> checked_mul(std::uint64_t a,
                                                              std::uint64_t b) noexcept {
    std::uint64_t r = 0;
    if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
    return r;
}

[[nodiscard]] inline std::optional<std::uint64_t> checked_add(std::uint64_t a,
                                                              std::uint64_t b) noexcept {
    std::uint64_t r = 0;
    if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
    return r;
}

// Smallest multiple of `unit` (a power of two) that is >= value; nullopt when it would wrap.
[[nodiscard]] inline std::optional<std::uint64_t> checked_round_up(std::uint64_t value,
                                                                   std::uint64_t unit) noexcept {
    const auto sum = checked_add(value, unit - 1);
    return sum ? std::optional(*sum & ~(unit - 1)) : std::nullopt;
}

template <class T>
[[nodiscard]] constexpr T ceil_div(T a, T b) noexcept {
    return (a + b - 1) / b;
}

}  // namespace thimble
