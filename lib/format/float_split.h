// SPDX-License-Identifier: Apache-2.0
// Floats as 16 bits whose exponents are worth coding, sign, exponent and mantissa where bfloat16
// has them, and the mantissa's low bits apart, packed, the first number lowest: 16 bits of an F32,
// 3 of an F16, none of a BF16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace thimble {

enum class FloatKind : std::uint8_t { kBF16, kF16, kF32 };
[[nodiscard]] constexpr std::size_t bytes_of(FloatKind kind) noexcept {
    return kind == FloatKind::kF32 ? 4 : 2;
}
[[nodiscard]] constexpr int low_bits(FloatKind kind) noexcept {
    return kind == FloatKind::kF32 ? 16 : kind == FloatKind::kF16 ? 3 : 0;
}
// Of so many numbers' low bits.
[[nodiscard]] constexpr std::uint64_t low_bytes(FloatKind kind, std::uint64_t numbers) noexcept {
    return (numbers * static_cast<std::uint64_t>(low_bits(kind)) + 7) / 8;
}

// `low` is left empty where all of it is zero.
void split_floats(FloatKind kind, std::span<const std::byte> floats,
                  std::vector<std::uint16_t>& high, std::vector<std::uint8_t>& low);
// The inverse; number i's low bits begin with bit `first_bit` + i * low_bits of `low`. An empty
// `low` is zeros. `floats` holds high.size() of them.
void join_floats(FloatKind kind, std::span<const std::uint16_t> high,
                 std::span<const std::uint8_t> low, std::uint64_t first_bit,
                 std::span<std::byte> floats);

}  // namespace thimble
