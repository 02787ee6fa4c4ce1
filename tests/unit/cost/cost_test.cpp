// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

#include "core/cpu.h"
#include "core/error.h"
#include "cost/probe.h"
#include "cost/time_model.h"
#include "cost/timing.h"

using namespace thimble;
using namespace thimble::cost;

namespace {
MachineProfile sample() {
    MachineProfile p;
    p.cpu = "CPU", p.isa = "avx2";
    p.rates = {{1, 10e9, 8e9, 100e9, 200e9, 150e9, 300e9},
               {4, 40e9, 20e9, 400e9, 800e9, 600e9, 900e9}};
    p.disk_read_bytes_per_second = 1e9, p.disk_write_bytes_per_second = 5e8;
    return p;
}
}  // namespace

TEST_CASE("cost profile: JSON keeps it, rates are linear between thread counts") {
    const MachineProfile p = sample();
    const Json json = to_json(p);
    CHECK(to_json(profile_from_json(parse_json(json.dump(), "p"), "p")).dump() == json.dump());
    CHECK(p.at(1).read_bytes_per_second == 10e9);
    CHECK(p.at(2).read_bytes_per_second == doctest::Approx(20e9));
    CHECK(p.at(3).copy_bytes_per_second == doctest::Approx(16e9));
    CHECK(p.at(64).i8_ops_per_second == 800e9);
    CHECK(p.at(2).dense_bf16_ops_per_second == doctest::Approx(500e9));
    CHECK(describe(p).find("threads  4") != std::string::npos);
}

TEST_CASE("cost profile: files of before dense rates have those of matmul, none is 0") {
    std::string text = to_json(sample()).dump();
    for (const char* key : {"\"dense_f32_ops_per_second\"", "\"dense_bf16_ops_per_second\""}) {
        for (std::size_t at; (at = text.find(key)) != std::string::npos;)
            text.replace(at, 2, "\"x");
    }
    const MachineProfile older = profile_from_json(parse_json(text, "p"), "p");
    CHECK(older.at(4).dense_f32_ops_per_second == 400e9);
    CHECK(older.at(1).dense_bf16_ops_per_second == 100e9);
    for (const RateAtThreads& rate : built_in_profile().rates) {
        CHECK(rate.dense_f32_ops_per_second > 0);
        CHECK(rate.dense_bf16_ops_per_second >= rate.dense_f32_ops_per_second);
    }
}

TEST_CASE("cost profile: bad files are refused, none given is the built-in one") {
    const auto refused = [](const Json& json) {
        CHECK_THROWS_AS((void)profile_from_json(json, "p.json"), Error);
    };
    refused(Json::object());
    Json zero = to_json(sample());
    Json disk = Json::object();
    disk.set("read_bytes_per_second", 0.0);
    disk.set("write_bytes_per_second", 1.0);
    zero.set("disk", std::move(disk));
    refused(zero);
    Json none = to_json(sample());
    none.set("rates", Json::array());
    refused(none);
    Json twice = to_json(sample());
    Json rates = Json::array();
    for (int i = 0; i < 2; ++i) rates.push(twice.find("rates")->as_array("")[0]);
    twice.set("rates", std::move(rates));
    refused(twice);

    ::unsetenv("THIMBLE_MACHINE");
    CHECK(find_profile("").name == "built-in");
    ::setenv("THIMBLE_MACHINE", "/nonexistent/profile.json", 1);
    CHECK_THROWS_AS((void)find_profile(""), Error);
    ::unsetenv("THIMBLE_MACHINE");
}

TEST_CASE("cost time model: closed forms on a small spec") {
    ModelSpec spec;
    spec.layers = 1, spec.hidden = 8, spec.all_ffn = 16, spec.vocab = 100;
    AttentionSpec attention;
    attention.shape.heads = 4, attention.shape.kv_heads = 2, attention.shape.head_dim = 2;
    spec.attention = {attention};
    const StepOps ops = step_ops(spec);
    CHECK(ops.layers == 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16));
    CHECK(ops.head == 2 * 8 * 100);
    CHECK(ops.attention_per_key == 2 * 2 * 8);
    const MachineProfile p = sample();
    CHECK(prefill_seconds({p, 1, false}, spec, 3, 1) ==
          doctest::Approx((3 * ops.layers + ops.head + 6 * ops.attention_per_key) / 100e9));
    CHECK(prefill_seconds({p, 1, true}, spec, 3, 1) < prefill_seconds({p, 1, false}, spec, 3, 1));
    CHECK(decode_seconds({p, 4, false}, 1000000, 10) == doctest::Approx(1e7 / 40e9));
    CHECK(load_seconds({p, 1, false}, 2000000000) == doctest::Approx(2.0));
    CHECK(quantize_seconds({p, 1, false}, {1000000000, 500000000, 0, 1}) == doctest::Approx(2.0));
}

TEST_CASE("cost time model: a training step is its products, and hides the disk behind them") {
    ModelSpec spec;
    spec.layers = 1, spec.hidden = 8, spec.all_ffn = 16, spec.vocab = 100;
    AttentionSpec attention;
    attention.shape.heads = 4, attention.shape.kv_heads = 2, attention.shape.head_dim = 2;
    spec.attention = {attention};
    const StepOps ops = step_ops(spec);
    MachineProfile p = sample();
    for (RateAtThreads& rate : p.rates) rate.copy_bytes_per_second = 1e30;
    TrainingWork work;
    work.tokens = 1000, work.layer_passes = 4, work.head_passes = 3;
    const double products = 1000 * (4 * ops.layers + 3 * ops.head);
    CHECK(training_time({p, 1, false}, spec, work).step == doctest::Approx(products / 150e9));
    work.bf16 = true;
    CHECK(training_time({p, 1, false}, spec, work).step == doctest::Approx(products / 300e9));
    work.runs = 2;
    const TrainingTime twice = training_time({p, 1, false}, spec, work);
    CHECK(twice.step == doctest::Approx(2 * products / 300e9));
    // What overlaps the passes is hidden by them; the optimizer's state by the update alone.
    work.passes = {1e9 * twice.step / 2, 0};
    CHECK(training_time({p, 1, false}, spec, work).step == doctest::Approx(twice.step));
    work.state = {1e9, 1e9};
    CHECK(training_time({p, 1, false}, spec, work).disk == doctest::Approx(twice.step / 2 + 3));
    CHECK(training_time({p, 1, false}, spec, work).step == doctest::Approx(twice.step + 3));
    work.in_backward = true;
    CHECK(training_time({p, 1, false}, spec, work).step == doctest::Approx(twice.step / 2 + 3));
}

TEST_CASE("cost probe: medians, bandwidths and the disk give usable figures") {
    CHECK(median({3, 1, 2}) == 2);
    CHECK(median({4, 1, 2, 3}) == 2.5);
    Buffer memory(std::size_t{16} << 20, Purpose::kOther);
    std::memset(memory.data(), 1, memory.bytes());
    Team team(2);
    const double read = read_bandwidth(team, memory, 3), copy = copy_bandwidth(team, memory, 3);
    CHECK(read > 1e8);  // slower than any memory, faster than any fault in the arithmetic
    CHECK(read < 1e13);
    CHECK(copy > 1e8);
    CHECK(copy < 1e13);
    const MatmulRates matmul = matmul_rates(team, best_isa(), 1);
    for (const double rate : {matmul.f32_ops_per_second, matmul.i8_ops_per_second,
                              matmul.dense_f32_ops_per_second, matmul.dense_bf16_ops_per_second}) {
        CHECK(rate > 1e7);
        CHECK(rate < 1e15);
    }
    const DiskRates disk = disk_rates("/tmp", std::int64_t{8} << 20);
    CHECK(disk.read_bytes_per_second > 1e5);
    CHECK(disk.write_bytes_per_second > 1e5);
    CHECK_THROWS_AS((void)disk_rates("/nonexistent", std::int64_t{8} << 20), Error);
}
