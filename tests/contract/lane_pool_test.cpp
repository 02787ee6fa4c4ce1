// SPDX-License-Identifier: Apache-2.0
// What lane memory and the pool under it promise together.
#include "kv/lane_pool.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "core/cpu.h"
#include "core/error.h"
#include "kv/lane_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

using namespace thimble;

namespace {

constexpr std::size_t kPage = 4096;
constexpr int kLanes = 3;

Ledger& ledger() { return Ledger::process(); }
LanePool& pool() { return LanePool::process(); }
std::uint64_t held() { return ledger().current_bytes(Tier::kRam); }
std::uint64_t kv() { return ledger().current_bytes(Tier::kRam, Purpose::kKv); }

long faults() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

void fill(LaneMemory& memory, int lane, std::size_t bytes, unsigned value) {
    std::memset(memory.lane(lane), static_cast<int>(value), bytes);
}

// A memory and what its owner wrote.
struct Owned {
    LaneMemory memory;
    std::array<std::size_t, kLanes> bytes{};
    unsigned value = 0;

    [[nodiscard]] bool intact() const {
        for (int lane = 0; lane < kLanes; ++lane) {
            const std::byte* at = memory.lane(lane);
            const auto count = static_cast<std::ptrdiff_t>(bytes[static_cast<std::size_t>(lane)]);
            if (!std::all_of(at, at + count, [&](std::byte b) { return b == std::byte(value); }))
                return false;
        }
        return true;
    }
};

// Random owners that come, grow, shrink and go. Returns whether all contents stayed as written.
bool churn(unsigned seed, int steps) {
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    std::vector<std::unique_ptr<Owned>> all;
    bool good = true;
    for (int step = 0; step < steps; ++step) {
        if (all.size() < 2 || (all.size() < 12 && below(4) == 0)) {
            auto one = std::make_unique<Owned>();
            one->memory = LaneMemory(kLanes, (1 + below(3)) * 16 * kPage);
            one->value = static_cast<unsigned>(1 + below(255));
            all.push_back(std::move(one));
        }
        const auto at = all.begin() + static_cast<std::ptrdiff_t>(below(all.size()));
        Owned& one = **at;
        good = good && one.intact();
        if (below(6) == 0) {
            all.erase(at);
            continue;
        }
        const std::size_t lane = below(kLanes);
        const std::size_t bytes = below(4) == 0 ? 0 : below(one.memory.lane_stride() + 1);
        one.memory.resize(static_cast<int>(lane), bytes);
        one.bytes[lane] = bytes;
        fill(one.memory, static_cast<int>(lane), bytes, one.value);
    }
    return good && std::all_of(all.begin(), all.end(), [](const auto& o) { return o->intact(); });
}

}  // namespace

TEST_CASE("lane pool: owners on several threads keep their contents, and every byte is charged") {
    pool().trim();
    const std::uint64_t before = held(), kv_before = kv();
    std::vector<std::thread> threads;
    std::array<bool, 4> good{};
    for (unsigned t = 0; t < good.size(); ++t)
        threads.emplace_back([&good, t] { good[t] = churn(t + 1, 1500); });
    for (std::thread& thread : threads) thread.join();
    CHECK(std::all_of(good.begin(), good.end(), [](bool b) { return b; }));
    CHECK(kv() == kv_before);
    CHECK(held() - before == pool().spare_bytes());  // threads that ended left what they had
    CHECK(pool().spare_bytes() <= LanePool::kSpareBytes);
    pool().trim();
    CHECK(pool().spare_bytes() == 0);
    CHECK(held() == before);
}

TEST_CASE("lane pool: ranges never overlap, and what is used and spare is charged at every step") {
    pool().trim();
    const std::uint64_t before = held(), kv_before = kv();
    std::mt19937 random(7);
    std::map<int, LaneMemory> all;
    std::uint64_t most = before;
    for (int step = 0; step < 2000; ++step) {
        const int id = static_cast<int>(random() % 10);
        if (all.count(id) == 0) all[id] = LaneMemory(kLanes, 32 * kPage);
        all[id].resize(static_cast<int>(random() % kLanes), random() % (32 * kPage + 1));
        if (random() % 8 == 0) all.erase(id);
        std::uint64_t used = 0;
        std::vector<const std::byte*> begins;
        for (const auto& [number, memory] : all) {
            used += memory.committed_bytes();
            begins.push_back(memory.data());
        }
        REQUIRE(kv() - kv_before == used);
        REQUIRE(held() - before == used + pool().spare_bytes());
        std::sort(begins.begin(), begins.end());
        for (std::size_t i = 1; i < begins.size(); ++i)
            REQUIRE(begins[i] - begins[i - 1] >= static_cast<std::ptrdiff_t>(kLanes * 32 * kPage));
        for (const std::byte* begin : begins)
            REQUIRE(reinterpret_cast<std::uintptr_t>(begin) % kPage == 0);
        most = std::max(most, held());
    }
    all.clear();
    pool().trim();
    CHECK(held() == before);
}

TEST_CASE("lane pool: what is kept never raises the ledger's peak") {
    pool().trim();
    ledger().reset_peaks();
    const std::uint64_t kv_before = kv(), total_before = held();
    std::mt19937 random(3);
    std::vector<LaneMemory> all(6);
    std::uint64_t most = 0;
    for (int step = 0; step < 1000; ++step) {
        LaneMemory& memory = all[random() % all.size()];
        if (memory.data() == nullptr || random() % 10 == 0) memory = LaneMemory(kLanes, 64 * kPage);
        memory.resize(static_cast<int>(random() % kLanes), random() % (64 * kPage + 1));
        most = std::max(most, kv() - kv_before);
        // Others come and go beside it.
        const Charge other(Tier::kRam, Purpose::kIo, random() % (32 * kPage));
        most = std::max(most, kv() - kv_before + other.bytes());
        REQUIRE(ledger().peak_bytes(Tier::kRam) - total_before == most);
    }
    all.clear();
    pool().trim();
}

TEST_CASE("lane pool: a budget takes back what is kept before it refuses") {
    pool().trim();
    LaneMemory living(kLanes, 64 * kPage), other(kLanes, 4 * kPage);
    living.resize(64 * kPage);
    other.resize(4 * kPage);
    other = LaneMemory();
    living.resize(60 * kPage);
    const std::uint64_t spare = pool().spare_bytes();
    CHECK(spare == kLanes * (4 + 4) * kPage);
    Budget budget;
    budget.limit_bytes[0] = held();
    ledger().set_budget(budget);
    {
        const Charge half(Tier::kRam, Purpose::kOther, spare / 2);
        CHECK(pool().spare_bytes() <= spare - spare / 2);
        const Charge rest(Tier::kRam, Purpose::kOther, spare - spare / 2);
        CHECK(pool().spare_bytes() == 0);
        CHECK_THROWS_AS(Charge(Tier::kRam, Purpose::kOther, 1), Error);
        CHECK_THROWS_AS(living.resize(61 * kPage), Error);
        CHECK(living.committed_bytes() == kLanes * 60 * kPage);
    }
    living.resize(64 * kPage);
    ledger().set_budget({});
}

TEST_CASE(
    "lane pool: a lane that goes on keeps little, all lanes together no more than the bound") {
    pool().trim();
    constexpr std::size_t kLane = std::size_t{8} << 20;
    LaneMemory memory(kLanes, kLane);
    memory.resize(kLane);
    memory.resize(kPage);
    CHECK(pool().spare_bytes() == kLanes * LanePool::kSpareLaneBytes);
    std::vector<LaneMemory> many;
    for (int i = 0; i < 3; ++i) many.emplace_back(kLanes, kLane).resize(kLane);
    for (LaneMemory& one : many) one.resize(0);
    CHECK(pool().spare_bytes() >= LanePool::kSpareBytes - kLane);
    CHECK(pool().spare_bytes() <= LanePool::kSpareBytes);
    pool().trim();
    CHECK(pool().spare_bytes() == 0);
}

TEST_CASE("lane pool: given-up pages leave the process when it is trimmed") {
    pool().trim();
    constexpr std::size_t kLane = std::size_t{8} << 20;
    LaneMemory memory(kLanes, kLane);
    memory.resize(kLane);
    for (int lane = 0; lane < kLanes; ++lane) fill(memory, lane, kLane, 1);
    memory.resize(0);
    CHECK(pool().spare_bytes() == kLanes * kLane);
    const std::uint64_t full = process_memory().resident_bytes;
    pool().trim();
    CHECK(full - process_memory().resident_bytes >= kLanes * kLane - (std::size_t{1} << 20));
}

TEST_CASE("lane pool: who takes the like of what was closed finds its pages ready") {
    pool().trim();
    constexpr std::size_t kLane = std::size_t{1} << 20;
    const auto use = [](std::size_t bytes) {
        LaneMemory memory(kLanes, kLane);
        memory.resize(bytes);
        for (int lane = 0; lane < kLanes; ++lane) fill(memory, lane, bytes, 1);
        return memory.data();
    };
    const std::byte* first = use(LanePool::kSpareLaneBytes);
    const long before = faults();
    for (int i = 0; i < 100; ++i) CHECK(use(LanePool::kSpareLaneBytes) == first);
    CHECK(faults() - before < 300);  // else 12 each time
    use(kLane);                      // too much to keep
    CHECK(pool().spare_bytes() == 0);
    LaneMemory other(kLanes, 2 * kLane), unlike(kLanes + 1, kLane);
    CHECK(other.lane_stride() == 2 * kLane);
    CHECK(unlike.data() != other.data());
    pool().trim();
}

#if defined(__SANITIZE_ADDRESS__)
TEST_CASE("lane pool: nobody may touch what is kept") {
    pool().trim();
    LaneMemory memory(kLanes, 64 * kPage);
    memory.resize(4 * kPage);
    memory.resize(2 * kPage);
    CHECK(__asan_address_is_poisoned(memory.lane(1) + 2 * kPage) != 0);
    CHECK(__asan_address_is_poisoned(memory.lane(1) + 2 * kPage - 1) == 0);
    memory.resize(3 * kPage);
    CHECK(__asan_address_is_poisoned(memory.lane(1) + 3 * kPage - 1) == 0);
    CHECK(__asan_address_is_poisoned(memory.lane(1) + 3 * kPage) != 0);
    const std::byte* closed = memory.lane(1);
    memory = LaneMemory();
    CHECK(__asan_address_is_poisoned(closed) != 0);
    pool().trim();
    CHECK(__asan_address_is_poisoned(closed) == 0);
}
#endif
