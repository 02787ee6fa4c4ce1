// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/ledger.h"
#include "core/strings.h"
#include "core/team.h"
#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"
#include "tensor/buffer.h"

using namespace thimble;

TEST_CASE("half: every pattern survives the round trip") {
    for (std::uint32_t h = 0; h < 0x10000; ++h) {
        const auto bits = static_cast<std::uint16_t>(h);
        const float f = f16_to_f32(bits);
        if (std::isnan(f)) {
            CHECK(std::isnan(f16_to_f32(f32_to_f16(f))));
            CHECK(std::isnan(bf16_to_f32(f32_to_bf16(bf16_to_f32(bits | 0x7fc0)))));
        } else {
            CHECK(f32_to_f16(f) == bits);
        }
        const float b = bf16_to_f32(bits);
        if (!std::isnan(b)) CHECK(f32_to_bf16(b) == bits);
    }
}

TEST_CASE("half: narrowing picks the nearest neighbour, ties to even") {
    for (std::uint32_t h = 0; h < 0x7bff; ++h) {
        const double low = f16_to_f32(static_cast<std::uint16_t>(h));
        const double high = f16_to_f32(static_cast<std::uint16_t>(h + 1));
        const auto middle = static_cast<float>((low + high) / 2);  // exact: 11 + 1 bits
        CHECK(f32_to_f16(middle) == (h & 1 ? h + 1 : h));
        CHECK(f32_to_f16(std::nextafter(middle, 0.0f)) == h);
        CHECK(f32_to_f16(std::nextafter(middle, 1e9f)) == h + 1);
    }
}

TEST_CASE("philox: the published known-answer vectors") {
    const Philox4 zero = philox(0, 0, 0);
    CHECK(zero.v[0] == 0x6627e8d5u);
    CHECK(zero.v[1] == 0xe169c58du);
    CHECK(zero.v[2] == 0xbc57ac4cu);
    CHECK(zero.v[3] == 0x9b00dbd8u);
    const Philox4 ones = philox(~0ull, ~0ull, ~0ull);
    CHECK(ones.v[0] == 0x408f276du);
    CHECK(ones.v[1] == 0x41c83b0eu);
    CHECK(ones.v[2] == 0xa20bc7c6u);
    CHECK(ones.v[3] == 0x6d5451fdu);
}

TEST_CASE("team: covers every item once, rethrows the lowest chunk's exception") {
    for (const int threads : {1, 2, 5}) {
        Team team(threads);
        for (int round = 0; round < 200; ++round) {
            std::vector<std::atomic<int>> seen(97);
            team.run(97, 10, [&](std::int64_t b, std::int64_t e) {
                for (; b < e; ++b) ++seen[static_cast<std::size_t>(b)];
            });
            for (const auto& count : seen) REQUIRE(count == 1);
        }
        try {
            team.run(100, 1, [&](std::int64_t b, std::int64_t) {
                if (b % 7 == 3) throw Error(Exit::kFailure, std::to_string(b), "planned");
            });
            FAIL("no exception");
        } catch (const Error& e) {
            CHECK(e.where() == "3");
        }
    }
}

TEST_CASE("team: a thread takes its share in order; others help with what is left") {
    for (const int threads : {1, 2, 3}) {
        Team team(threads);
        CHECK(team.share(97, 10, 0) == 0);
        CHECK(team.share(97, 10, threads) == 97);
        for (int t = 1; t < threads; ++t) CHECK(team.share(97, 10, t) % 10 == 0);
    }
    Team team(2);
    const std::int64_t second = team.share(100, 5, 1);
    CHECK(second == 50);
    // The caller stays in its first chunk until all others are done, which begin after it.
    std::atomic<int> done = 0;
    std::atomic<bool> begun = false;
    std::vector<std::int64_t> of_worker;
    team.run_indexed(100, 5, [&](std::int64_t begin, std::int64_t, int thread) {
        if (thread == 0) begun = true;
        while (!begun || (thread == 0 && begin == 0 && done < 19)) std::this_thread::yield();
        if (thread == 1) of_worker.push_back(begin);
        ++done;
    });
    REQUIRE(of_worker.size() == 19);
    for (std::size_t i = 0; i < 10; ++i)
        CHECK(of_worker[i] == second + 5 * static_cast<std::int64_t>(i));
    for (std::size_t i = 10; i < 19; ++i)
        CHECK(of_worker[i] == 5 * static_cast<std::int64_t>(i - 9));
}

TEST_CASE("team: what threads are told to fetch changes nothing, and may be gone") {
    Team team(3);
    std::vector<Readings> lists(3);
    auto memory = std::make_unique<std::array<std::byte, 1 << 16>>();
    for (int round = 0; round < 300; ++round) {
        if (round == 150) memory.reset();
        for (Readings& list : lists) {
            list.parts[0] = {memory ? memory->data() : nullptr, 40000};
            list.parts[3] = {reinterpret_cast<const std::byte*>(&team), 100};
        }
        team.will_read(lists);
        std::atomic<std::int64_t> sum = 0;
        team.run(60, 1, [&](std::int64_t b, std::int64_t) { sum += b; });
        REQUIRE(sum == 59 * 30);
        lists.assign(3, {});  // no longer looked at
    }
    team.will_read(std::span(lists).first(2));  // not one for each thread: left out
    team.run(60, 1, [](std::int64_t, std::int64_t) {});
}

TEST_CASE("ledger: refuses before the budget is passed and counts buffers exactly") {
    Ledger& ledger = Ledger::process();
    const std::uint64_t before = ledger.current_bytes(Tier::kRam);
    {
        const Buffer small(1000, Purpose::kKv), large(5'000'000, Purpose::kKv);
        CHECK(ledger.current_bytes(Tier::kRam) - before ==
              Buffer::charged_bytes(1000) + Buffer::charged_bytes(5'000'000));
    }
    CHECK(ledger.current_bytes(Tier::kRam) == before);
    Budget budget;
    budget.limit_bytes[0] = before + 4096;
    ledger.set_budget(budget);
    CHECK_THROWS_AS(Buffer(8192, Purpose::kKv), Error);
    { const Buffer fits(4096, Purpose::kKv); }
    ledger.set_budget({});
}

TEST_CASE("strings: byte sizes, suggestions, UTF-8") {
    CHECK(parse_bytes("4GiB", "x") == 4ull << 30);
    CHECK(parse_bytes("1.5k", "x") == 1536);
    CHECK(parse_bytes("2MB", "x") == 2'000'000);
    for (const char* bad : {"", "GiB", "-1", "1X", "1KiBs", "nan", "1e30"})
        CHECK_THROWS_AS((void)parse_bytes(bad, "x"), Error);
    const std::vector<std::string> names = {"q4_0", "q8_0", "streaming"};
    CHECK(nearest("streeming", names) == "streaming");
    CHECK(nearest("xyz", names).empty());
    CHECK(utf8_length("\xc0\x80") == 0);          // overlong
    CHECK(utf8_length("\xed\xa0\x80") == 0);      // surrogate
    CHECK(utf8_length("\xf4\x90\x80\x80") == 0);  // past U+10FFFF
    CHECK(utf8_length("\xf0\x9f\x98\x80") == 4);
    CHECK(escaped("a\x01\xff") == "a\\x01\\xff");
    CHECK_THROWS_AS((void)Budget::parse("ram=1G,ram=2G", "x"), Error);
    CHECK_THROWS_AS((void)Budget::parse("rom=1G", "x"), Error);
    CHECK(*Budget::parse("ram=1GiB", "x").limit_bytes[0] == 1ull << 30);
}
