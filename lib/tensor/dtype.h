// SPDX-License-Identifier: Apache-2.0
// Element types of plain (unpacked) data and exact conversions between them.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace thimble {

enum class DType : std::uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8 };

[[nodiscard]] constexpr std::size_t size_of(DType t) noexcept {
    switch (t) {
        case DType::kF64:
        case DType::kI64:
            return 8;
        case DType::kF32:
        case DType::kI32:
            return 4;
        case DType::kF16:
        case DType::kBF16:
        case DType::kI16:
            return 2;
        case DType::kI8:
        case DType::kU8:
            return 1;
    }
    return 0;
}
[[nodiscard]] std::string_view name(DType t) noexcept;  // "f32"

}  // namespace thimble
