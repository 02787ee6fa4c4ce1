// SPDX-License-Identifier: Apache-2.0
// Updates of 16 Mi weights: bytes_per_second counts what a step must read and write (weights,
// gradients, state). "add" does no more than w += g on the same memory: what is there to be
// reached.
#include <benchmark/benchmark.h>

#include "tests/support/trained_parameter.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const train::ParameterInfo kParameter{{4096, 4096}};

void update(benchmark::State& state, const std::string& spec, int threads, Isa isa) {
    const auto optimizer = train::make_optimizer(spec, "bench");
    TrainedParameter p(*optimizer, kParameter, 1);
    p.set_gradients(1);
    Team team(threads);
    std::int64_t step = 0;
    for (auto _ : state) train::update(*optimizer, team, isa, p.tile(++step));
    const auto bytes = static_cast<std::int64_t>(2 * optimizer->state_bytes(kParameter));
    state.SetBytesProcessed(state.iterations() * (12 * kParameter.elements() + bytes));
}

void update_bf16(benchmark::State& state, const std::string& spec, int threads, Isa isa) {
    const auto optimizer = train::make_optimizer(spec, "bench");
    TrainedParameter p(*optimizer, kParameter, 1);
    p.set_gradients(1);
    Team team(threads);
    const auto count = train::bf16_scratch_elements(*optimizer, kParameter, threads);
    std::vector<float> scratch(static_cast<std::size_t>(count));
    std::vector<std::uint16_t> weights(static_cast<std::size_t>(kParameter.elements()), 0x3f80);
    std::int64_t step = 0;
    for (auto _ : state)
        train::update_bf16(*optimizer, team, isa, p.tile(++step), {1, 2}, weights.data(), scratch);
    const auto bytes = static_cast<std::int64_t>(2 * optimizer->state_bytes(kParameter));
    state.SetBytesProcessed(state.iterations() * (8 * kParameter.elements() + bytes));
}

void add(benchmark::State& state, int threads) {
    const auto n = static_cast<std::size_t>(kParameter.elements());
    std::vector<float> w(n, 1), g(n, 1);
    Team team(threads);
    for (auto _ : state) {
        team.run(kParameter.elements(), 32768, [&](std::int64_t begin, std::int64_t end) {
            for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
                w[i] += g[i];
        });
    }
    state.SetBytesProcessed(state.iterations() * 12 * kParameter.elements());
}

void add_squares(benchmark::State& state, int threads, Isa isa) {
    const std::vector<float> x(static_cast<std::size_t>(kParameter.elements()), 1);
    Team team(threads);
    double sum = 0;
    for (auto _ : state) train::add_squares(team, isa, x, sum);
    benchmark::DoNotOptimize(sum);
    state.SetBytesProcessed(state.iterations() * 4 * kParameter.elements());
}

const bool kRegistered = [] {
    for (const int threads : {1, default_threads()}) {
        const std::string end = "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(("update/add" + end).c_str(), add, threads)->UseRealTime();
        for (const Isa isa : machine_levels()) {
            const std::string tail = "/" + std::string(name(isa)) + end;
            for (const std::string spec : {"adamw", "adamw8bit", "sgd", "sgd:momentum=0.9"}) {
                benchmark::RegisterBenchmark(("update/" + spec + tail).c_str(), update, spec,
                                             threads, isa)
                    ->UseRealTime();
            }
            benchmark::RegisterBenchmark(("update_bf16/adamw" + tail).c_str(), update_bf16, "adamw",
                                         threads, isa)
                ->UseRealTime();
            benchmark::RegisterBenchmark(("add_squares" + tail).c_str(), add_squares, threads, isa)
                ->UseRealTime();
        }
    }
    return true;
}();

}  // namespace
