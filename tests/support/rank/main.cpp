// SPDX-License-Identifier: Apache-2.0
// One rank of the tests of lib/dist: `rank sum` checks what it gets from the others against what it
// computes alone, `rank fail` ends all from the last rank. The exit status is 0 where all held.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dist/communicator.h"

using namespace thimble;

namespace {

// What a rank brings: of many magnitudes and both signs, so that another order gives other bits.
template <class T>
std::vector<T> values_of(int rank, std::size_t count) {
    std::mt19937 random(static_cast<unsigned>(1 + rank));
    std::vector<T> values(count);
    for (T& v : values) {
        const double sign = (random() & 1u) != 0 ? 1 : -1;
        v = static_cast<T>(sign * std::ldexp(1 + static_cast<double>(random()) / 4294967296.0,
                                             static_cast<int>(random() % 60) - 30));
    }
    return values;
}

template <class T>
bool sums_hold(dist::Communicator& ranks, std::size_t count) {
    std::vector<double> wanted(count, 0);
    for (int r = 0; r < ranks.size(); ++r) {
        const std::vector<T> values = values_of<T>(r, count);
        for (std::size_t i = 0; i < count; ++i) wanted[i] += static_cast<double>(values[i]);
    }
    std::vector<T> mine = values_of<T>(ranks.rank(), count);
    ranks.sum(std::span<T>(mine));
    for (std::size_t i = 0; i < count; ++i)
        if (mine[i] != static_cast<T>(wanted[i])) return false;
    return true;
}

bool copies_hold(dist::Communicator& ranks) {
    const auto letter = [](int rank) { return std::byte(static_cast<unsigned char>('a' + rank)); };
    std::vector<std::byte> bytes((std::size_t{4} << 20) + 5, letter(ranks.rank()));
    ranks.broadcast(bytes);
    for (const std::byte b : bytes)
        if (b != letter(0)) return false;
    const std::vector<std::byte> own(3, letter(ranks.rank()));
    const std::vector<std::byte> all = ranks.gather(own);
    if (all.size() != 3 * static_cast<std::size_t>(ranks.size())) return false;
    for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i] != letter(static_cast<int>(i / 3))) return false;
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    const std::unique_ptr<dist::Communicator> ranks = dist::join();
    if (argc > 1 && std::strcmp(argv[1], "fail") == 0) {
        if (ranks->rank() == ranks->size() - 1) ranks->abort(65);
        ranks->barrier();
        return 0;
    }
    constexpr std::size_t kChunk = std::size_t{1} << 20;  // floats
    bool holds = copies_hold(*ranks);
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{7}, kChunk + 12345})
        holds = sums_hold<float>(*ranks, count) && holds;
    for (const std::size_t count : {std::size_t{2}, kChunk / 2 + 3})
        holds = sums_hold<double>(*ranks, count) && holds;
    std::printf("rank %d of %d: %s\n", ranks->rank(), ranks->size(), holds ? "holds" : "differs");
    return holds ? 0 : 1;
}
