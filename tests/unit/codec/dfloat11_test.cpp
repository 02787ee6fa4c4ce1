// SPDX-License-Identifier: Apache-2.0
// Codes of DFloat11 as its authors store them: exponents come back, and what their readers rely on
// holds.
#include "codec/dfloat11.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

using Numbers = std::vector<std::uint16_t>;

struct Coded {
    Coded(const Numbers& numbers, const ExponentCounts& counts)
        : code(Dfloat11Code::best(counts).value()) {
        Dfloat11Encoder encoder(code);
        const std::size_t half = numbers.size() / 2;
        encoder.encode(std::span(numbers).first(half), bytes);
        encoder.encode(std::span(numbers).subspan(half), bytes);
        encoder.finish(bytes);
        gaps = encoder.gaps(), positions = encoder.output_positions();
    }
    // What block by block comes back; empty where one is told to be damaged.
    [[nodiscard]] Numbers decode() const {
        const Dfloat11Decoder decoder({code.luts(), bytes, gaps, positions});
        CHECK(decoder.problem(positions.back()).empty());
        Numbers out;
        for (std::int64_t b = 0; b < decoder.blocks(); ++b) {
            const auto at = static_cast<std::size_t>(b);
            std::vector<std::uint8_t> exponents(positions[at + 1] - positions[at]);
            if (!decoder.decode(b, exponents.data())) return {};
            for (const std::uint8_t e : exponents)
                out.push_back(static_cast<std::uint16_t>(e << 7));
        }
        return out;
    }
    Dfloat11Code code;
    std::vector<std::uint8_t> bytes, gaps;
    std::vector<std::uint32_t> positions;
};

// Exponents that have counts, all as often.
Numbers drawn(const ExponentCounts& counts, std::size_t n, std::uint64_t seed) {
    std::vector<std::uint8_t> present;
    for (std::size_t e = 0; e < counts.size(); ++e)
        if (counts[e] > 0) present.push_back(static_cast<std::uint8_t>(e));
    Numbers out;
    for (std::size_t i = 0; i < n; ++i)
        out.push_back(
            static_cast<std::uint16_t>(present[philox(seed, i).v[0] % present.size()] << 7));
    return out;
}

// The longest codes: each count the sum of the two before it.
ExponentCounts fibonacci(std::size_t n) {
    ExponentCounts counts{};
    for (std::uint64_t a = 1, b = 1, e = 0; e < n; ++e) {
        counts[10 + e] = a;
        b += std::exchange(a, b);
    }
    return counts;
}

}  // namespace

TEST_CASE("dfloat11: exponents come back, with codes of up to 32 bits") {
    for (const std::size_t exponents : {1, 2, 9, 20, 34, 60}) {
        CAPTURE(exponents);
        const ExponentCounts counts = fibonacci(exponents);
        const Numbers numbers = drawn(counts, 20000, exponents);
        const Coded coded(numbers, counts);
        CHECK(coded.decode() == numbers);
        const auto& luts = coded.code.luts();
        CHECK(*std::max_element(luts.end() - 256, luts.end()) ==
              std::clamp<std::size_t>(exponents - 1, 1, 32));
    }
}

TEST_CASE("dfloat11: gaps and positions are where codes begin") {
    const ExponentCounts counts = fibonacci(30);
    const Numbers numbers = drawn(counts, 9000, 3);
    const Coded coded(numbers, counts);
    const auto* lengths = &*(coded.code.luts().end() - 256);
    std::vector<int> gaps(coded.gaps.size() * 8 / 5, -1), positions(coded.positions.size(), -1);
    std::size_t at = 0;
    for (std::size_t i = 0; i < numbers.size(); at += lengths[numbers[i++] >> 7]) {
        if (gaps[at / 64] < 0) gaps[at / 64] = static_cast<int>(at % 64);
        int& position = positions[at / 64 / 512];
        if (position < 0) position = static_cast<int>(i);
    }
    CHECK((at + 7) / 8 == coded.bytes.size());
    for (std::size_t t = 0; t < gaps.size(); ++t) {
        int stored = 0;
        for (std::size_t bit = 5 * t; bit < 5 * t + 5; ++bit)
            stored = 2 * stored + (coded.gaps[bit / 8] >> (7 - bit % 8) & 1);
        REQUIRE(stored == std::max(gaps[t], 0));
    }
    REQUIRE(coded.positions.size() > 3);
    for (std::size_t b = 0; b + 1 < positions.size(); ++b)
        CHECK(static_cast<int>(coded.positions[b]) == positions[b]);
    CHECK(coded.positions.back() == numbers.size());
}

TEST_CASE("dfloat11: every byte of a table says something, within it") {
    for (const std::size_t exponents : {1, 5, 40}) {
        const Coded coded({}, fibonacci(exponents));
        const auto& luts = coded.code.luts();
        const std::size_t tables = luts.size() / 256 - 1;
        for (std::size_t i = 0; i < tables * 256; ++i) {
            if (luts[i] >= 240) {
                CHECK(256u - luts[i] < tables);
            } else {
                CHECK(luts[tables * 256 + luts[i]] > 0);
            }
        }
    }
}

TEST_CASE("dfloat11: what tables cannot hold is told") {
    ExponentCounts counts{};
    counts[100] = 5, counts[240] = 1;
    CHECK_FALSE(Dfloat11Code::best(counts).has_value());
    counts[240] = 0, counts[239] = 1;
    CHECK(Dfloat11Code::best(counts).has_value());
}

TEST_CASE("dfloat11: codes that do not end where the next block begins are told") {
    const ExponentCounts counts = fibonacci(12);
    const Numbers numbers = drawn(counts, 40000, 5);
    const Coded whole(numbers, counts);
    int told = 0, tried = 0;
    for (std::size_t at = 0; at < whole.bytes.size(); at += 97, ++tried) {
        Coded changed = whole;
        changed.bytes[at] ^= 0x55;
        const Numbers got = changed.decode();
        CHECK(got != numbers);
        told += got.empty();
    }
    // Codes fall into step again soon: most changes are for a checksum to tell.
    CHECK(told > 0);
    Coded cut = whole;
    cut.bytes.resize(cut.bytes.size() - 2);
    CHECK(cut.decode().empty());
}
