// SPDX-License-Identifier: Apache-2.0
// Numbers of coded exponents come back bit for bit on every level, and damaged ones are told.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "codec/exponent_coder.h"
#include "codec/prefix_code.h"
#include "harness.h"
#include "ops/exponents.h"

using namespace thimble;
using namespace thimble::test;

namespace {

using Numbers = std::vector<std::uint16_t>;

struct Coded {
    explicit Coded(const Numbers& numbers) {
        ExponentCounts counts{};
        count_exponents(numbers, counts);
        code = best_code(counts);
        ExponentCoder(code).encode(numbers, words);
        for (const std::uint16_t x : numbers) rest.push_back(rest_of_bf16(x));
    }
    // Decoded on one level; `slack` words may be read behind the chunk. Empty where it is damaged.
    [[nodiscard]] Numbers decode(Isa isa, std::size_t slack = 1024) const {
        Numbers padded = words, out(rest.size(), 0xdead);
        padded.resize(words.size() + slack, 0xffff);
        const ops::ExponentDecoder decoder(code, isa);
        const bool sound = decoder.decode(std::span(padded).first(words.size()),
                                          padded.data() + padded.size(), rest, out);
        return sound ? out : Numbers{};
    }
    ExponentCode code;
    Numbers words;
    std::vector<std::uint8_t> rest;
};

Numbers weights(std::int64_t count, std::uint64_t seed) {
    Random random(seed);
    Numbers out;
    for (std::int64_t i = 0; i < count; ++i)
        out.push_back(static_cast<std::uint16_t>(float_to_bits(random.normal(0.02f)) >> 16));
    return out;
}

void check_all_levels(const Numbers& numbers) {
    const Coded coded(numbers);
    CHECK(coded.code.sound());
    for (const Isa isa : levels()) {
        CAPTURE(name(isa));
        CHECK(coded.decode(isa) == numbers);
        CHECK(coded.decode(isa, 0) == numbers);  // nothing behind the chunk is there
    }
}

}  // namespace

TEST_CASE("exponents: numbers of any count come back bit for bit") {
    for (const std::int64_t count :
         {1, 2, 31, 32, 33, 63, 64, 65, 127, 511, 512, 513, 1024, 5000, 32767, 32768}) {
        CAPTURE(count);
        check_all_levels(weights(count, static_cast<std::uint64_t>(count)));
    }
}

TEST_CASE("exponents: every pattern of 16 bits comes back, NaN and infinity too") {
    Numbers all(65536);
    std::iota(all.begin(), all.end(), std::uint16_t{0});
    for (std::size_t first = 0; first < all.size(); first += ExponentCode::kChunk) {
        const auto at = all.begin() + static_cast<std::ptrdiff_t>(first);
        Numbers chunk(at, at + ExponentCode::kChunk);
        check_all_levels(chunk);
        // All exponents next to each other.
        std::stable_sort(chunk.begin(), chunk.end(),
                         [](std::uint16_t a, std::uint16_t b) { return (a & 127) < (b & 127); });
        check_all_levels(chunk);
    }
}

TEST_CASE("exponents: one value, two values and the longest codes") {
    check_all_levels(Numbers(1000, 0x3f80));
    Numbers two(3000, 0x3f80);
    for (std::size_t i = 0; i < two.size(); i += 7) two[i] = 0xbf01;
    check_all_levels(two);
    // Fibonacci's counts make the longest codes.
    Numbers skewed;
    for (std::uint32_t e = 100, a = 1, b = 1; skewed.size() + a <= ExponentCode::kChunk; ++e) {
        skewed.insert(skewed.end(), a, static_cast<std::uint16_t>(e << 7));
        b += std::exchange(a, b);
    }
    check_all_levels(skewed);
    const Coded coded(skewed);
    CHECK(*std::max_element(std::begin(coded.code.lengths), std::end(coded.code.lengths)) ==
          ExponentCode::kLongest);
}

TEST_CASE("exponents: weights take little more than their entropy") {
    const Numbers numbers = weights(ExponentCode::kChunk, 5);
    ExponentCounts counts{};
    count_exponents(numbers, counts);
    const double bound = 8 + entropy_bits(counts);
    const Coded coded(numbers);
    const double bits =
        8 + 16.0 * static_cast<double>(coded.words.size()) / static_cast<double>(numbers.size());
    CHECK(bits >= bound);
    CHECK(bits < 1.01 * bound);
}

TEST_CASE("exponents: what is cut off or changed is told, and nothing beyond it is read") {
    const Coded whole(weights(5000, 9));
    std::int64_t told = 0;
    for (std::size_t length = 0; length < whole.words.size(); length += 37) {
        Coded cut = whole;
        cut.words.resize(length);
        cut.words.shrink_to_fit();
        for (const Isa isa : levels()) CHECK(cut.decode(isa, 0).empty());
    }
    Coded longer = whole;
    longer.words.push_back(0);
    for (const Isa isa : levels()) CHECK(longer.decode(isa).empty());
    for (std::size_t at = 0; at < whole.words.size(); ++at) {
        Coded changed = whole;
        changed.words[at] ^= 0x1248;
        const Numbers first = changed.decode(levels().front());
        for (const Isa isa : levels()) CHECK(changed.decode(isa) == first);
        told += first.empty();
    }
    // Words that end in step after all are for the file's checksum to tell.
    CHECK(told > static_cast<std::int64_t>(whole.words.size()) / 3);
}

TEST_CASE("prefix codes: their sum is the least that bounded codes allow") {
    // All complete sets of lengths of five symbols, by search.
    const auto least = [](const std::vector<std::uint64_t>& counts, int longest) {
        std::uint64_t best = UINT64_MAX;
        std::vector<int> lengths(counts.size(), 1);
        for (;;) {
            int kraft = 0;
            std::uint64_t sum = 0;
            for (std::size_t s = 0; s < counts.size(); ++s) {
                kraft += 1 << (longest - lengths[s]);
                sum += counts[s] * static_cast<std::uint64_t>(lengths[s]);
            }
            if (kraft <= 1 << longest) best = std::min(best, sum);
            std::size_t s = 0;
            while (s < lengths.size() && lengths[s] == longest) lengths[s++] = 1;
            if (s == lengths.size()) return best;
            ++lengths[s];
        }
    };
    Random random(3);
    for (int longest = 3; longest <= 5; ++longest) {
        for (int trial = 0; trial < 40; ++trial) {
            std::vector<std::uint64_t> counts;
            for (int s = 0; s < 5; ++s)
                counts.push_back(1 + static_cast<std::uint64_t>(
                                         std::exp2(12 * static_cast<double>(random.unit()))));
            const std::vector<int> lengths = code_lengths(counts, longest);
            std::uint64_t sum = 0;
            int kraft = 0;
            for (std::size_t s = 0; s < counts.size(); ++s) {
                REQUIRE(lengths[s] >= 1);
                REQUIRE(lengths[s] <= longest);
                sum += counts[s] * static_cast<std::uint64_t>(lengths[s]);
                kraft += 1 << (longest - lengths[s]);
            }
            CHECK(kraft == 1 << longest);
            CHECK(sum == least(counts, longest));
        }
    }
    CHECK(code_lengths(std::vector<std::uint64_t>{0, 7, 0}, 8) == std::vector<int>{0, 1, 0});
    CHECK(code_lengths(std::vector<std::uint64_t>{0, 0}, 8) == std::vector<int>{0, 0});
}
