// SPDX-License-Identifier: Apache-2.0
// Every packed layout against an independent decoder in double, over all codes and scale patterns.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/layout/all.h"

using namespace thimble;

namespace {

// A half's value by the definition, sharing nothing with half.h.
double half_value(unsigned h) {
    const int exponent = static_cast<int>((h >> 10) & 31u);
    const double fraction = static_cast<double>(h & 1023u) / 1024.0;
    const double sign = (h & 0x8000u) ? -1 : 1;
    if (exponent == 0) return sign * std::ldexp(fraction, -14);
    return sign * std::ldexp(1 + fraction, exponent - 15);
}

unsigned u16_at(const std::vector<std::uint8_t>& b, std::size_t i) {
    return b[i] | static_cast<unsigned>(b[i + 1]) << 8;
}

// `width` bits from bit `at` of the bytes from `base`, little endian.
int bits(const std::vector<std::uint8_t>& b, std::size_t base, std::size_t at, int width) {
    int v = 0;
    for (int i = 0; i < width; ++i) {
        const std::size_t bit = at + static_cast<std::size_t>(i);
        v |= ((b[base + bit / 8] >> (bit % 8)) & 1) << i;
    }
    return v;
}

const int kIq4Values[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const double kE2m1Values[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

const int kIq2Values[] = {8, 25, 43};
const int kIq3XxsValues[] = {4, 12, 20, 28, 36, 44, 52, 62};

int digit(unsigned point, unsigned width, std::size_t k) {
    return static_cast<int>(point >> (width * k)) % (1 << width);
}
// Eight signs of which an even number is set, by the first seven.
int even(int seven) {
    int set = 0;
    for (int k = 0; k < 7; ++k) set += seven >> k & 1;
    return seven + 128 * (set % 2);
}
int sign(int signs, std::size_t i) { return (signs >> (i % 8)) % 2 == 0 ? 1 : -1; }

// Weight i of a block, read from the byte diagrams alone.
double weight(LayoutId id, const std::vector<std::uint8_t>& b, std::size_t i) {
    const std::size_t nibble32 = (i % 16) * 8 + (i / 16) * 4;  // 32-weight blocks
    const std::size_t nibble_k = (i / 64) * 256 + (i % 32) * 8 + (i / 32 % 2) * 4;
    const std::size_t g = i / 32, v = i / 8, v4 = v % 4;
    const std::size_t two_bits = (i / 128) * 256 + (i % 32) * 8 + (i / 32 % 4) * 2;
    const auto k_scale = [&](std::size_t base) {
        return g < 4 ? bits(b, base, g * 8, 6)
                     : bits(b, base + 8, (g - 4) * 8, 4) | bits(b, base, (g - 4) * 8 + 6, 2) << 4;
    };
    const auto k_minimum = [&](std::size_t base) {
        return g < 4 ? bits(b, base + 4, g * 8, 6)
                     : bits(b, base + 8, (g - 4) * 8 + 4, 4) | bits(b, base + 4, (g - 4) * 8 + 6, 2)
                                                                   << 4;
    };
    switch (id) {
        case LayoutId::k_f32: {
            float f;
            std::memcpy(&f, b.data(), 4);
            return f;
        }
        case LayoutId::k_f64: {
            double d;
            std::memcpy(&d, b.data(), 8);
            return d;
        }
        case LayoutId::k_f16:
            return half_value(u16_at(b, 0));
        case LayoutId::k_bf16: {
            const unsigned h = u16_at(b, 0);
            const int exponent = static_cast<int>((h >> 7) & 255u);
            const double f = static_cast<double>(h & 127u) / 128.0;
            const double magnitude =
                exponent ? std::ldexp(1 + f, exponent - 127) : std::ldexp(f, -126);
            return (h & 0x8000u) ? -magnitude : magnitude;
        }
        case LayoutId::k_q4_0:
            return half_value(u16_at(b, 0)) * (bits(b, 2, nibble32, 4) - 8);
        case LayoutId::k_q4_1:
            return half_value(u16_at(b, 0)) * bits(b, 4, nibble32, 4) + half_value(u16_at(b, 2));
        case LayoutId::k_q5_0:
            return half_value(u16_at(b, 0)) *
                   (bits(b, 6, nibble32, 4) + 16 * bits(b, 2, i, 1) - 16);
        case LayoutId::k_q5_1:
            return half_value(u16_at(b, 0)) * (bits(b, 8, nibble32, 4) + 16 * bits(b, 4, i, 1)) +
                   half_value(u16_at(b, 2));
        case LayoutId::k_q8_0:
            return half_value(u16_at(b, 0)) * static_cast<std::int8_t>(b[2 + i]);
        case LayoutId::k_q4_k:
            return half_value(u16_at(b, 0)) * k_scale(4) * bits(b, 16, nibble_k, 4) -
                   half_value(u16_at(b, 2)) * k_minimum(4);
        case LayoutId::k_q5_k:
            return half_value(u16_at(b, 0)) * k_scale(4) *
                       (bits(b, 48, nibble_k, 4) + 16 * bits(b, 16, (i % 32) * 8 + g, 1)) -
                   half_value(u16_at(b, 2)) * k_minimum(4);
        case LayoutId::k_q6_k: {
            const std::size_t h = i / 128, q = i / 32 % 4, j = i % 32;
            const int low = bits(b, 0, (64 * h + 32 * (q % 2) + j) * 8 + (q < 2 ? 0u : 4u), 4);
            const int high = bits(b, 128, (32 * h + j) * 8 + 2 * q, 2);
            return half_value(u16_at(b, 208)) * static_cast<std::int8_t>(b[192 + i / 16]) *
                   (low + 16 * high - 32);
        }
        case LayoutId::k_q2_k: {
            const int both = b[i / 16];
            return half_value(u16_at(b, 80)) * (both % 16) * bits(b, 16, two_bits, 2) -
                   half_value(u16_at(b, 82)) * (both / 16);
        }
        case LayoutId::k_q3_k: {
            const std::size_t j = i / 16;
            const int scale = bits(b, 96, j % 8 * 8 + (j < 8 ? 0u : 4u), 4) +
                              16 * bits(b, 104, j % 4 * 8 + j / 4 * 2, 2);
            const int code = bits(b, 32, two_bits, 2) + 4 * bits(b, 0, i % 32 * 8 + g, 1);
            return half_value(u16_at(b, 108)) * (scale - 32) * (code - 4);
        }
        case LayoutId::k_iq4_nl:
            return half_value(u16_at(b, 0)) * kIq4Values[bits(b, 2, nibble32, 4)];
        case LayoutId::k_iq4_xs: {
            const int scale = bits(b, 4, 4 * g, 4) + 16 * bits(b, 2, 2 * g, 2);
            const std::size_t nibble = g * 128 + (i % 16) * 8 + (i % 32 / 16) * 4;
            return half_value(u16_at(b, 0)) * (scale - 32) * kIq4Values[bits(b, 8, nibble, 4)];
        }
        case LayoutId::k_mxfp4: {
            const int code = bits(b, 1, nibble32, 4);
            return std::ldexp(kE2m1Values[code % 8] * (code < 8 ? 1 : -1), b[0] - 127);
        }
        case LayoutId::k_tq1_0: {
            // The byte's digits in base 3, of which the first stands for 85 1/3 and a bit.
            const std::size_t base = i < 160 ? 0 : i < 240 ? 160 : 240;
            const std::size_t count = i < 160 ? 32 : i < 240 ? 16 : 4;
            const std::size_t first = i < 160 ? 0 : i < 240 ? 32 : 48;
            const int byte = b[first + (i - base) % count];
            const double shifted = byte * std::pow(3.0, static_cast<double>((i - base) / count));
            const int digit = static_cast<int>(3 * std::fmod(shifted, 256.0) / 256);
            return half_value(u16_at(b, 52)) * (digit - 1);
        }
        case LayoutId::k_tq2_0:
            return half_value(u16_at(b, 64)) * (bits(b, 0, two_bits, 2) - 1);
        case LayoutId::k_iq2_xxs: {
            const int scale = bits(b, 2 + 8 * g, 60, 4), signs = bits(b, 2 + 8 * g, 32 + 7 * v4, 7);
            return half_value(u16_at(b, 0)) * (2 * scale + 1) / 8 * sign(even(signs), i) *
                   kIq2Values[digit(kIq2XxsGrid[b[2 + 8 * g + v4]], 2, i % 8)];
        }
        case LayoutId::k_iq2_xs: {
            const int point = bits(b, 2, 16 * v, 9), signs = bits(b, 2, 16 * v + 9, 7);
            return half_value(u16_at(b, 0)) * (2 * bits(b, 66, i / 16 * 4, 4) + 1) / 8 *
                   sign(even(signs), i) * kIq2Values[digit(kIq2XsGrid[point], 2, i % 8)];
        }
        case LayoutId::k_iq2_s: {
            const int point = b[2 + v] + 256 * bits(b, 66, 2 * v, 2);
            return half_value(u16_at(b, 0)) * (2 * bits(b, 74, i / 16 * 4, 4) + 1) / 8 *
                   sign(b[34 + v], i) * kIq2Values[digit(kIq2SGrid[point], 2, i % 8)];
        }
        case LayoutId::k_iq3_xxs: {
            const int scale = bits(b, 66 + 4 * g, 28, 4), signs = bits(b, 66 + 4 * g, 7 * v4, 7);
            const int value = kIq3XxsValues[digit(kIq3XxsGrid[b[2 + i / 4]], 3, i % 4)];
            return half_value(u16_at(b, 0)) * (2 * scale + 1) / 4 * sign(even(signs), i) * value;
        }
        case LayoutId::k_iq3_s: {
            const int point = b[2 + i / 4] + 256 * bits(b, 66, i / 4, 1);
            return half_value(u16_at(b, 0)) * (2 * bits(b, 106, g * 4, 4) + 1) *
                   sign(b[74 + v], i) * (2 * digit(kIq3SGrid[point], 3, i % 4) + 1);
        }
        case LayoutId::k_iq1_s: {
            const int point = b[2 + v] + 256 * bits(b, 34 + 2 * g, 3 * v4, 3);
            const double shift = bits(b, 34 + 2 * g, 15, 1) != 0 ? -0.125 : 0.125;
            return half_value(u16_at(b, 0)) * (2 * bits(b, 34 + 2 * g, 12, 3) + 1) *
                   (digit(kIq1Grid[point], 2, i % 8) - 1 + shift);
        }
        case LayoutId::k_iq1_m: {
            unsigned d = 0;
            for (std::size_t n = 0; n < 4; ++n) d += u16_at(b, 48 + 2 * n) / 4096 << 4 * n;
            const int point = b[v] + 256 * bits(b, 32, 4 * v, 3);
            const double shift = bits(b, 32, 4 * v + 3, 1) != 0 ? -0.125 : 0.125;
            return half_value(d) * (2 * bits(b, 48, i / 64 * 16 + i / 16 % 4 * 3, 3) + 1) *
                   (digit(kIq1Grid[point], 2, i % 8) - 1 + shift);
        }
        default:
            break;  // no file holds it
    }
    return NAN;
}

// Positions of f16 fields, which must stay finite in random blocks.
std::vector<std::size_t> half_fields(LayoutId id) {
    switch (id) {
        case LayoutId::k_q4_0:
        case LayoutId::k_q5_0:
        case LayoutId::k_q8_0:
        case LayoutId::k_iq4_nl:
        case LayoutId::k_iq4_xs:
        case LayoutId::k_iq2_xxs:
        case LayoutId::k_iq2_xs:
        case LayoutId::k_iq2_s:
        case LayoutId::k_iq3_xxs:
        case LayoutId::k_iq3_s:
        case LayoutId::k_iq1_s:
            return {0};
        case LayoutId::k_q4_1:
        case LayoutId::k_q5_1:
        case LayoutId::k_q4_k:
        case LayoutId::k_q5_k:
            return {0, 2};
        case LayoutId::k_q6_k:
            return {208};
        case LayoutId::k_q2_k:
            return {80, 82};
        case LayoutId::k_q3_k:
            return {108};
        case LayoutId::k_tq1_0:
            return {52};
        case LayoutId::k_tq2_0:
            return {64};
        case LayoutId::k_iq1_m:
            return {54};
        default:
            return {};
    }
}

template <LayoutId id>
void check_block(const std::vector<std::uint8_t>& bytes) {
    using L = Layout<id>;
    typename L::Block block;
    REQUIRE(bytes.size() == sizeof block);
    std::memcpy(&block, bytes.data(), sizeof block);
    double d[L::kElements];
    float f[L::kElements];
    L::unpack(block, d);
    L::unpack(block, f);
    for (std::size_t i = 0; i < L::kElements; ++i) {
        const double want = weight(id, bytes, i);
        if (d[i] != want)
            FAIL(std::string(layout_info(id).name), " weight ", i, ": ", d[i], " not ", want);
        // One float rounding of a difference of exact terms.
        if (f[i] != static_cast<float>(want))
            FAIL(std::string(layout_info(id).name), " float weight ", i, ": ", f[i], " not ", want);
    }
    if constexpr (L::kElements > kPartElements) {
        float parts[L::kElements];
        for (int part = 0; part < L::kElements / kPartElements; ++part)
            L::unpack_part(block, part, parts + kPartElements * part);
        if (std::memcmp(parts, f, sizeof f) != 0)
            FAIL(std::string(layout_info(id).name), " in parts differs");
    }
}

template <LayoutId id>
void check_layout() {
    constexpr std::size_t kBytes = sizeof(typename Layout<id>::Block);
    const std::vector<std::size_t> halves = half_fields(id);
    std::vector<std::uint8_t> bytes(kBytes);
    // Each byte value at each position, over random surroundings: every code at every place.
    for (std::size_t at = 0; at < kBytes; ++at) {
        for (unsigned value = 0; value < 256; ++value) {
            for (std::size_t i = 0; i < kBytes; ++i)
                bytes[i] = static_cast<std::uint8_t>(philox(7, at * 256 + value, i).v[0]);
            bytes[at] = static_cast<std::uint8_t>(value);
            for (std::size_t h : halves) bytes[h + 1] &= 0xbf;  // finite, below 2
            if (halves.empty()) bytes[kBytes - 1] &= 0xbf;
            check_block<id>(bytes);
        }
    }
}

}  // namespace

TEST_SUITE("format") {
    TEST_CASE("layout: every byte value at every position decodes as the byte diagram says") {
#define THIMBLE_LAYOUT(id) check_layout<LayoutId::k_##id>();
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
    }

    TEST_CASE("layout: K scales pack and unpack are inverse for all 6-bit values") {
        for (unsigned trial = 0; trial < 4096; ++trial) {
            KScales in;
            for (unsigned i = 0; i < 8; ++i) {
                in.scale[i] = static_cast<std::uint8_t>((trial + i * 9) & 63u);
                in.minimum[i] = static_cast<std::uint8_t>((trial / 64 + i * 13) & 63u);
            }
            std::uint8_t bytes[12];
            in.pack(bytes);
            const KScales out = KScales::unpack(bytes);
            CHECK(std::memcmp(&in, &out, sizeof in) == 0);
        }
    }

    TEST_CASE("layout: info names, elements and bytes") {
        CHECK(std::string_view(layout_info(LayoutId::k_q6_k).name) == "q6_k");
        CHECK(layout_info(LayoutId::k_q6_k).block_elements == 256);
        CHECK(layout_info(LayoutId::k_q6_k).block_bytes == 210);
        CHECK(layout_info(LayoutId::k_f32).block_bytes == 4);
        CHECK(with_layout(LayoutId::k_q5_1, [](auto l) { return decltype(l)::kElements; }) == 32);
    }
}
