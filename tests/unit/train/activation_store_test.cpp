// SPDX-License-Identifier: Apache-2.0
#include "train/activation_store.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::train;

namespace {

std::byte fill_of(int pass, std::size_t piece) {
    return static_cast<std::byte>(pass * 37 + static_cast<int>(piece) * 5 + 1);
}

// One pass forward and backward; `stops_at`: backward is given up there.
void run(ActivationStore& store, std::size_t pieces, std::size_t bytes, int pass,
         std::size_t stops_at = 0) {
    for (std::size_t i = 0; i < pieces; ++i) {
        std::memset(store.room(i), static_cast<int>(fill_of(pass, i)), bytes);
        store.put(i, bytes);
    }
    for (std::size_t i = pieces; i-- > stops_at;) {
        const std::byte* data = store.take(i);
        const bool whole =
            std::all_of(data, data + bytes, [&](std::byte b) { return b == fill_of(pass, i); });
        CHECK_MESSAGE(whole, "piece " << i << " of " << pieces);
        store.drop(i);
    }
}

}  // namespace

TEST_CASE("activations on disk come back as they were put, pass after pass") {
    constexpr std::size_t kBytes = 100'000;
    for (const std::size_t pieces : {0, 1, 2, 3, 4, 5, 9}) {
        CAPTURE(pieces);
        const test::TempDir directory;
        const auto tier = storage::open_file_tier(directory.path());
        const std::uint64_t ram = Ledger::process().current_bytes(Tier::kRam);
        const auto store = make_disk_activations(pieces, kBytes, *tier);
        const ActivationBytes bytes = disk_activation_bytes(pieces, kBytes);
        CHECK(Ledger::process().current_bytes(Tier::kRam) - ram == bytes.ram);
        CHECK(tier->capacity() == bytes.disk);
        for (int pass = 0; pass < 4; ++pass) {
            // The third is smaller than the others, and given up halfway.
            run(*store, pieces, pass == 2 ? 5000 : kBytes, pass, pass == 2 ? pieces / 2 : 0);
        }
        const std::size_t leave = pieces > 3 ? pieces - 3 : 0;
        CHECK(tier->counters().bytes_written == leave * (3 * 102'400 + 8192));
    }
}

TEST_CASE("activations in memory are planned to the byte") {
    const std::uint64_t ram = Ledger::process().current_bytes(Tier::kRam);
    const auto store = make_memory_activations(7, 640, Place::kHost);
    CHECK(Ledger::process().current_bytes(Tier::kRam) - ram ==
          memory_activation_bytes(7, 640, Place::kHost).ram);
    CHECK(memory_activation_bytes(7, 640, Place::kHost).disk == 0);
    run(*store, 7, 640, 0);
}
