// SPDX-License-Identifier: Apache-2.0
// Ranks that add up and copy, by mpirun.
#include <doctest/doctest.h>

#include "dist/communicator.h"
#include "tests/support/process.h"
#include "tests/support/ranks.h"

using namespace thimble;
using namespace thimble::test;

TEST_CASE("ranks: sums are those of all ranks in their order, to the bit, in chunks") {
    for (const int count : {1, 2, 5}) {
        auto words = mpirun(count);
        if (!words) return;
        words->insert(words->end(), {THIMBLE_RANK, "sum"});
        const ProcessResult r = run_process(*words);
        CAPTURE(r.err);
        CAPTURE(r.out);
        CHECK(r.exit == 0);
        for (int rank = 0; rank < count; ++rank) {
            const std::string line =
                "rank " + std::to_string(rank) + " of " + std::to_string(count) + ": holds";
            CHECK(r.out.find(line) != std::string::npos);
        }
    }
}

TEST_CASE("ranks: one that gives up ends all, with its exit status") {
    auto words = mpirun(3);
    if (!words) return;
    words->insert(words->end(), {THIMBLE_RANK, "fail"});
    CHECK(run_process(*words, {.timeout_seconds = 30}).exit == 65);
}

TEST_CASE("ranks: a process without a launcher is alone and leaves values as they are") {
    dist::Communicator* const one = dist::alone();
    CHECK(one->size() == 1);
    std::vector<float> values = {1, -2};
    one->sum(std::span(values));
    CHECK(values == std::vector<float>{1, -2});
    CHECK(one->gather(std::as_bytes(std::span(values))).size() == 8);
    CHECK(dist::Communicator::charged_bytes(1) == 0);
    CHECK(dist::Communicator::charged_bytes(2) >= std::size_t{4} << 20);
}
