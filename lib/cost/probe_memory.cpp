// SPDX-License-Identifier: Apache-2.0
// Read and copy bandwidth. Chunks are handed out dynamically, so a disturbed thread does not hold
// the others up; each chunk is read as several streams at once, which hides memory latency better
// than one.
#include <atomic>
#include <cstring>

#include "cost/probe.h"
#include "cost/timing.h"

namespace thimble::cost {
namespace {

constexpr std::size_t kStreams = 4;
constexpr std::size_t kChunk = std::size_t{4} << 20;
typedef std::uint64_t Words __attribute__((vector_size(16)));
constexpr std::size_t kWords = sizeof(Words) / sizeof(std::uint64_t);

std::uint64_t sum_chunk(const std::uint64_t* x, std::size_t words) {
    const std::size_t part = words / kStreams;
    Words sums[kStreams] = {};
    for (std::size_t i = 0; i + 4 * kWords <= part; i += 4 * kWords) {
        for (std::size_t s = 0; s < kStreams; ++s) {
            for (std::size_t j = 0; j < 4; ++j) {
                Words v;
                std::memcpy(&v, x + s * part + i + j * kWords, sizeof(v));
                sums[s] += v;
            }
        }
    }
    std::uint64_t total = 0;
    for (const Words& s : sums) total += s[0] + s[1];
    return total;
}

std::int64_t chunks_of(std::size_t bytes) { return static_cast<std::int64_t>(bytes / kChunk); }

}  // namespace

double read_bandwidth(Team& team, const Buffer& memory, std::int64_t repeats) {
    const std::int64_t chunks = chunks_of(memory.bytes());
    std::atomic<std::uint64_t> keep{0};  // the sums are used, so that the reads cannot be removed
    const auto pass = [&] {
        team.run(chunks, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t c = begin; c < end; ++c) {
                const std::byte* at = memory.data() + static_cast<std::size_t>(c) * kChunk;
                keep += sum_chunk(reinterpret_cast<const std::uint64_t*>(at),
                                  kChunk / sizeof(std::uint64_t));
            }
        });
    };
    return static_cast<double>(chunks) * static_cast<double>(kChunk) /
           median_seconds(repeats, pass);
}

double copy_bandwidth(Team& team, Buffer& memory, std::int64_t repeats) {
    const std::int64_t chunks = chunks_of(memory.bytes() / 2);
    const std::size_t half = static_cast<std::size_t>(chunks) * kChunk;
    const auto pass = [&] {
        team.run(chunks, 1, [&](std::int64_t begin, std::int64_t end) {
            const auto first = static_cast<std::size_t>(begin) * kChunk;
            std::memcpy(memory.data() + half + first, memory.data() + first,
                        static_cast<std::size_t>(end - begin) * kChunk);
        });
    };
    return 2 * static_cast<double>(half) / median_seconds(repeats, pass);
}

}  // namespace thimble::cost
