// SPDX-License-Identifier: Apache-2.0
#include "train/data/packing.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "core/ledger.h"
#include "kernels/layout/rng.h"

using namespace thimble;
using namespace thimble::train;

namespace {

using Lengths = std::vector<std::uint32_t>;

// `how` for samples of lengths from 1 to `most`.
Lengths random_lengths(std::uint64_t seed, std::size_t count, std::uint32_t most) {
    Lengths out;
    for (std::size_t i = 0; i < count; ++i) out.push_back(1 + philox(seed, i).v[0] % most);
    return out;
}

std::vector<Lengths> rows_of(const Lengths& lengths, std::uint32_t capacity, Packing how) {
    CountingResource memory(Purpose::kIo);
    PackedWindow window(&memory);
    window.pack(lengths, capacity, how);
    std::vector<Lengths> rows;
    for (std::int64_t r = 0; r < window.rows(); ++r)
        rows.emplace_back(window.row(r).begin(), window.row(r).end());
    return rows;
}

// The fewest rows, by trying each sample in each row.
std::size_t fewest(const Lengths& lengths, std::uint32_t capacity, std::size_t next,
                   std::vector<std::uint32_t>& rows, std::size_t best) {
    if (rows.size() >= best) return best;
    if (next == lengths.size()) return rows.size();
    for (std::size_t r = 0; r < rows.size(); ++r) {
        if (rows[r] + lengths[next] > capacity) continue;
        rows[r] += lengths[next];
        best = fewest(lengths, capacity, next + 1, rows, best);
        rows[r] -= lengths[next];
    }
    rows.push_back(lengths[next]);
    best = fewest(lengths, capacity, next + 1, rows, best);
    rows.pop_back();
    return best;
}

// First fit as it is defined.
std::vector<Lengths> first_fit(const Lengths& lengths, std::uint32_t capacity) {
    std::vector<Lengths> rows;
    std::vector<std::uint32_t> full;
    for (std::uint32_t i = 0; i < lengths.size(); ++i) {
        std::size_t r = 0;
        while (r < rows.size() && full[r] + lengths[i] > capacity) ++r;
        if (r == rows.size()) {
            rows.emplace_back();
            full.push_back(0);
        }
        rows[r].push_back(i);
        full[r] += lengths[i];
    }
    return rows;
}

}  // namespace

TEST_CASE("packing: each sample is in one row, and no row is too long") {
    for (const Packing how : {Packing::kNone, Packing::kFirstFit, Packing::kBestFit}) {
        for (const std::size_t count : {0u, 1u, 2u, 3u, 64u, 65u, 1000u}) {
            CAPTURE(count);
            const Lengths lengths = random_lengths(count, count, 64);
            std::vector<int> seen(count);
            for (const Lengths& row : rows_of(lengths, 64, how)) {
                CHECK_FALSE(row.empty());
                std::uint32_t sum = 0;
                for (const std::uint32_t i : row) {
                    ++seen[i];
                    sum += lengths[i];
                }
                CHECK(sum <= 64);
            }
            CHECK(std::count(seen.begin(), seen.end(), 1) == static_cast<std::ptrdiff_t>(count));
        }
    }
}

TEST_CASE("packing: best fit decreasing needs at most 11/9 of the fewest rows and one more") {
    int perfect = 0, all = 0;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        const Lengths lengths = random_lengths(seed, 4 + seed % 6, seed % 2 == 0 ? 20 : 11);
        std::vector<std::uint32_t> none;
        const std::size_t least = fewest(lengths, 20, 0, none, lengths.size() + 1);
        const std::size_t rows = rows_of(lengths, 20, Packing::kBestFit).size();
        CHECK(rows >= least);
        CHECK(9 * rows <= 11 * least + 9);
        perfect += rows == least ? 1 : 0;
        ++all;
    }
    CHECK(10 * perfect >= 9 * all);
}

TEST_CASE("packing: best fit takes the fullest row that has room, first fit the first") {
    const Lengths lengths = {5, 7, 3, 2, 3};
    CHECK(rows_of(lengths, 10, Packing::kBestFit) == std::vector<Lengths>{{1, 2}, {0, 4, 3}});
    CHECK(rows_of(lengths, 10, Packing::kFirstFit) == std::vector<Lengths>{{0, 2, 3}, {1, 4}});
    CHECK(rows_of(lengths, 10, Packing::kNone) == std::vector<Lengths>{{0}, {1}, {2}, {3}, {4}});
}

TEST_CASE("packing: first fit is what its definition gives") {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
        const Lengths lengths = random_lengths(seed, 1 + seed * 7, 50);
        CHECK(rows_of(lengths, 50, Packing::kFirstFit) == first_fit(lengths, 50));
    }
}

TEST_CASE("packing: short samples fill as few rows as their tokens allow") {
    const Lengths lengths = random_lengths(1, 1024, 200);
    const std::uint32_t sum = std::accumulate(lengths.begin(), lengths.end(), 0u);
    CHECK(rows_of(lengths, 1024, Packing::kBestFit).size() <= sum / 1024 + 1);
}

TEST_CASE("packing: holds no more bytes than a plan says") {
    for (const Packing how : {Packing::kNone, Packing::kFirstFit, Packing::kBestFit}) {
        for (const std::size_t count : {1u, 5u, 64u, 1000u, 4096u}) {
            const Lengths lengths = random_lengths(count, count, 30);
            Ledger& ledger = Ledger::process();
            const std::uint64_t before = ledger.current_bytes(Tier::kRam, Purpose::kIo);
            ledger.reset_peaks();
            (void)rows_of(lengths, 40, how);
            const std::uint64_t peak = ledger.peak_bytes(Tier::kRam, Purpose::kIo) - before;
            CHECK(peak <= PackedWindow::most_bytes(count));
            CHECK(peak > 0);
            CHECK(ledger.current_bytes(Tier::kRam, Purpose::kIo) == before);
        }
    }
}
