// SPDX-License-Identifier: Apache-2.0
#include "format/float_split.h"

#include <algorithm>
#include <cstring>

namespace thimble {
namespace {

template <class T>
T load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// Of F16: sign, five bits of exponent, ten of mantissa.
std::uint16_t high_of_f16(std::uint16_t bits) {
    return static_cast<std::uint16_t>((bits & 0x8000u) | (bits >> 10 & 31u) << 7 |
                                      (bits >> 3 & 0x7fu));
}
std::uint16_t f16_of(std::uint16_t high, unsigned low) {
    return static_cast<std::uint16_t>((high & 0x8000u) | (high >> 7 & 31u) << 10 |
                                      (high & 0x7fu) << 3 | low);
}

}  // namespace

void split_floats(FloatKind kind, std::span<const std::byte> floats,
                  std::vector<std::uint16_t>& high, std::vector<std::uint8_t>& low) {
    const std::size_t size = bytes_of(kind), count = floats.size() / size;
    high.resize(count);
    low.assign(low_bytes(kind, count), 0);
    const std::byte* at = floats.data();
    std::uint32_t any = 0;
    for (std::size_t i = 0; i < count; ++i, at += size) {
        if (kind == FloatKind::kBF16) {
            high[i] = load<std::uint16_t>(at);
        } else if (kind == FloatKind::kF32) {
            const auto bits = load<std::uint32_t>(at);
            high[i] = static_cast<std::uint16_t>(bits >> 16);
            low[2 * i] = static_cast<std::uint8_t>(bits);
            low[2 * i + 1] = static_cast<std::uint8_t>(bits >> 8);
            any |= bits & 0xffffu;
        } else {
            const auto bits = load<std::uint16_t>(at);
            high[i] = high_of_f16(bits);
            const std::size_t bit = 3 * i;
            const unsigned shifted = (bits & 7u) << bit % 8;
            low[bit / 8] = static_cast<std::uint8_t>(low[bit / 8] | shifted);
            if (shifted > 255) low[bit / 8 + 1] = static_cast<std::uint8_t>(shifted >> 8);
            any |= bits & 7u;
        }
    }
    if (any == 0) low.clear();
}

void join_floats(FloatKind kind, std::span<const std::uint16_t> high,
                 std::span<const std::uint8_t> low, std::uint64_t first_bit,
                 std::span<std::byte> floats) {
    if (kind == FloatKind::kBF16)
        return void(std::memcpy(floats.data(), high.data(), high.size_bytes()));
    const std::size_t size = bytes_of(kind);
    const auto bits = static_cast<unsigned>(low_bits(kind));
    for (std::size_t i = 0; i < high.size(); ++i) {
        unsigned rest = 0;
        if (!low.empty()) {
            const std::uint64_t bit = first_bit + i * bits;
            const auto byte = static_cast<std::size_t>(bit / 8);
            rest = low[byte];
            if (byte + 1 < low.size()) rest |= static_cast<unsigned>(low[byte + 1]) << 8;
            rest = rest >> bit % 8 & ((1u << bits) - 1);
        }
        if (kind == FloatKind::kF32) {
            const std::uint32_t value = static_cast<std::uint32_t>(high[i]) << 16 | rest;
            std::memcpy(floats.data() + i * size, &value, size);
        } else {
            const std::uint16_t value = f16_of(high[i], rest);
            std::memcpy(floats.data() + i * size, &value, size);
        }
    }
}

}  // namespace thimble
