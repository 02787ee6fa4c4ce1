// SPDX-License-Identifier: Apache-2.0
// The clock of operations: what adds up, what counts once, what a wait is.
#include "ops/op_clock.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

using namespace thimble;
using Phase = OpClock::Phase;

namespace {

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

double sum_of_rows(const OpClock::Total& total) {
    double sum = 0;
    for (const OpClock::Row& row : total.rows) sum += row.seconds;
    return sum;
}

// One chunk for each of two threads; the second thread's takes so long, the caller's own so long.
void run_two_chunks(Team& team, int ms, int own_ms = 0) {
    std::atomic<bool> taken{false};
    team.run_indexed(2, 1, [&](std::int64_t, std::int64_t, int thread) {
        if (thread == 0) {
            while (!taken) std::this_thread::yield();
            return sleep_ms(own_ms);
        }
        taken = true;
        sleep_ms(ms);
    });
}

}  // namespace

TEST_CASE("op clock: rows and the rest are the time that passed; the outermost operation counts") {
    Team team(1);
    OpClock clock(team);
    Exec exec;
    exec.clock = &clock;
    { const ops::Timed before(exec, "before any phase", 7); }
    enter_phase(exec, Phase::kPrompt, 3);
    for (int i = 0; i < 2; ++i) {
        ops::Timed outer(exec, "outer", 10);
        sleep_ms(2);
        ops::Timed inner(exec, "inner", 100);
        sleep_ms(3);
        inner.add_bytes(1000);
    }
    {
        ops::Timed other(exec, "another", 1);
        other.add_bytes(4);
    }
    sleep_ms(4);
    enter_phase(exec, Phase::kDecode, 1);
    { const ops::Timed outer(exec, "outer", 20); }
    sleep_ms(3);
    enter_phase(exec, Phase::kDecode, 1);
    enter_phase(exec, Phase::kNone, 0);
    sleep_ms(2);
    { const ops::Timed after(exec, "after all phases"); }

    const OpClock::Total& prompt = clock.total(Phase::kPrompt);
    REQUIRE(prompt.rows.size() == 2);
    CHECK(prompt.tokens == 3);
    CHECK(prompt.rows[0].name() == "outer");
    CHECK(prompt.rows[0].calls == 2);
    CHECK(prompt.rows[0].bytes == 20);
    CHECK(prompt.rows[0].seconds >= 0.010);
    CHECK(prompt.rows[1].bytes == 5);
    CHECK(prompt.other_seconds() >= 0.004);
    CHECK(sum_of_rows(prompt) + prompt.other_seconds() == doctest::Approx(prompt.seconds));
    CHECK(prompt.seconds >= 0.014);
    const OpClock::Total& decode = clock.total(Phase::kDecode);
    REQUIRE(decode.rows.size() == 1);
    CHECK(decode.tokens == 2);
    CHECK(decode.rows[0].bytes == 20);
    CHECK(decode.seconds >= 0.003);
    CHECK(sum_of_rows(decode) + decode.other_seconds() == doctest::Approx(decode.seconds));
    CHECK(clock.total(Phase::kNone).rows.empty());
}

TEST_CASE("op clock: waits are those for the other thread, of the operation and of the phase") {
    Team team(2);
    Exec exec;
    exec.team = &team;
    {
        OpClock clock(team);
        exec.clock = &clock;
        run_two_chunks(team, 1);  // of no phase
        enter_phase(exec, Phase::kDecode, 1);
        {
            const ops::Timed timed(exec, "waits");
            run_two_chunks(team, 20);
        }
        {
            const ops::Timed timed(exec, "alone");
            team.run(1, 1, [](std::int64_t, std::int64_t) { sleep_ms(5); });
        }
        run_two_chunks(team, 10);
        {
            const ops::Timed timed(exec, "works itself");
            run_two_chunks(team, 0, 50);
        }
        enter_phase(exec, Phase::kNone, 0);
        const OpClock::Total& total = clock.total(Phase::kDecode);
        CHECK(total.waits.count == 3);
        CHECK(total.waits.seconds >= 0.010);  // of 30 ms: a busy machine wakes the caller late
        CHECK(total.waits.seconds <= total.seconds);
        REQUIRE(total.rows.size() == 3);
        CHECK(total.rows[2].seconds >= 0.050);
        CHECK(total.rows[2].waiting < 0.050);
        CHECK(total.rows[0].waiting >= 0.006);  // of 20 ms
        CHECK(total.rows[0].waiting <= total.rows[0].seconds);
        CHECK(total.rows[1].waiting == 0);
    }
    TeamWaits waits;  // the clock that has gone is not written to
    team.time_waits(&waits);
    run_two_chunks(team, 1);
    team.time_waits(nullptr);
    run_two_chunks(team, 1);
    CHECK(waits.count == 1);
}

TEST_CASE("op clock: products by layouts and shape, with the bytes of their weights") {
    Team team(1);
    OpClock clock(team);
    Exec exec;
    exec.clock = &clock;
    const auto product = [](LayoutId layout, std::int64_t rows, std::int64_t cols,
                            std::size_t bytes) {
        ops::Matmul p;
        p.weight.layout = layout, p.weight.shape = {rows, cols}, p.weight.n_planes = 1;
        p.weight.planes[0].bytes = bytes;
        return p;
    };
    const std::vector<ops::Matmul> qkv = {product(LayoutId::k_q4_0_x16, 64, 32, 1152),
                                          product(LayoutId::k_q6_k_x16, 16, 32, 200),
                                          product(LayoutId::k_q4_0_x16, 16, 32, 288)};
    enter_phase(exec, Phase::kDecode, 1);
    for (int i = 0; i < 3; ++i) const ops::Timed timed(exec, qkv);
    { const ops::Timed timed(exec, std::span(qkv).first(1)); }
    enter_phase(exec, Phase::kNone, 0);
    const auto& rows = clock.total(Phase::kDecode).rows;
    REQUIRE(rows.size() == 2);
    CHECK(rows[0].name() == "matmul q4_0+q6_k 96x32");
    CHECK(rows[0].calls == 3);
    CHECK(rows[0].bytes == 3 * 1640);
    CHECK(rows[0].weights_per_call() == 96 * 32);
    REQUIRE(rows[0].weights.size() == 2);
    CHECK(rows[0].weights[0].rows == 80);
    CHECK(rows[0].weights[0].bytes == 1440);
    CHECK(rows[1].name() == "matmul q4_0 64x32");
}

TEST_CASE("op clock: keys and values that a query sees") {
    std::vector<std::int32_t> places = {0, 1, -1, 7, 9, 12};
    const std::vector<std::int64_t> queries = {9, 10};
    ops::AttnSegment dense, listed;
    dense.slots = 20;
    dense.k.layout = LayoutId::k_f16, dense.v.layout = LayoutId::k_q8_0;
    listed = dense;
    listed.slots = std::ssize(places), listed.positions = places.data(), listed.kv_head = 1;
    ops::Attention a;
    a.heads = 8, a.kv_heads = 2, a.head_dim = 32;
    a.q_positions = queries;
    constexpr std::uint64_t kRow = 64 + 34;
    a.segments = {&dense, 1};
    CHECK(ops::bytes_seen(a) == 11 * 2 * kRow);  // positions 0 to 10, of both heads
    a.window = 4;                                // 6 to 10
    CHECK(ops::bytes_seen(a) == 5 * 2 * kRow);
    a.sinks = 2;  // and 0, 1
    CHECK(ops::bytes_seen(a) == 7 * 2 * kRow);
    a.segments = {&listed, 1};  // 0, 1, 7, 9 of one head
    CHECK(ops::bytes_seen(a) == 4 * kRow);
    const std::vector<std::int16_t> channels = {1, 5, 6};
    listed.channels = channels;
    CHECK(ops::bytes_seen(a) == 4 * (6 + 34));
    listed.channels = {};
    listed.k.f64 = listed.v.f64 = true;
    CHECK(ops::bytes_seen(a) == 4 * 2 * 32 * sizeof(double));
}
