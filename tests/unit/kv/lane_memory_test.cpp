// SPDX-License-Identifier: Apache-2.0
#include "kv/lane_memory.h"

#include <doctest/doctest.h>

#include <cstring>

#include "core/cpu.h"

using namespace thimble;

TEST_CASE("lane memory: grows and shrinks by whole pages, keeps what stays, charges exactly") {
    const auto held = [] { return Ledger::process().current_bytes(Tier::kRam, Purpose::kKv); };
    const std::uint64_t before = held();
    {
        LaneMemory memory(3, std::size_t{1} << 30);
        CHECK(held() == before);
        std::size_t kept = 0;
        for (const std::size_t bytes : {1, 4096, 4097, 200000, 65536, 66000, 5, 0, 10}) {
            memory.resize(bytes);
            const std::size_t lane = LaneMemory::committed_lane_bytes(bytes);
            CHECK(lane >= bytes);
            CHECK(lane < bytes + 65536);
            CHECK(memory.committed_bytes() == 3 * lane);
            CHECK(held() - before == 3 * lane);
            kept = std::min(kept, lane);
            for (std::size_t i = 0; i < 3; ++i) {
                std::byte* data = memory.data() + i * memory.lane_stride();
                for (std::size_t b = 0; b < kept; b += 997)
                    REQUIRE(data[b] == static_cast<std::byte>(i + b));
                for (std::size_t b = 0; b < lane; ++b) data[b] = static_cast<std::byte>(i + b);
            }
            kept = lane;
        }
    }
    CHECK(held() == before);
}

TEST_CASE("lane memory: given-up pages leave the process") {
    constexpr std::size_t kLane = std::size_t{16} << 20;
    LaneMemory memory(2, kLane);
    memory.resize(kLane);
    std::memset(memory.data(), 1, 2 * memory.lane_stride());
    const std::uint64_t full = process_memory().resident_bytes;
    memory.resize(kLane / 2);
    const std::uint64_t half = process_memory().resident_bytes;
    CHECK(full - half >= kLane - (std::size_t{1} << 20));
}
