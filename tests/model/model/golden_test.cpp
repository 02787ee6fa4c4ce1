// SPDX-License-Identifier: Apache-2.0
// Tiny random models against transformers, and the CPU device against the reference device.
#include <doctest/doctest.h>

#include <cmath>

#include "core/cpu.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"

using namespace thimble;

namespace {

constexpr double kFloatEpsilon = 0x1p-24;

RunnerOptions on(Device device, Isa isa = Isa::kPortable) {
    RunnerOptions options;
    options.device = device;
    options.isa = isa;
    options.activations = Activations::kF32;
    options.kv.type_k = options.kv.type_v = "f32";
    return options;
}

// Largest |a - b| of a row over what rounding allows there.
double worst(const ModelSpec& spec, std::span<const double> a, std::span<const double> b,
             double epsilon) {
    REQUIRE(a.size() == b.size());
    const auto vocab = static_cast<std::size_t>(spec.vocab);
    double ratio = 0;
    for (std::size_t at = 0; at < a.size(); at += vocab) {
        const double allowed = test::rounding_tolerance(spec, a.subspan(at, vocab), epsilon);
        for (std::size_t i = at; i < at + vocab; ++i) {
            const double error = std::abs(a[i] - b[i]);
            ratio = std::isfinite(error) ? std::max(ratio, error / allowed) : INFINITY;
        }
    }
    return ratio;
}

std::vector<double> widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

}  // namespace

TEST_CASE("golden models: the reference device agrees with transformers") {
    Team team(2);
    for (const auto& golden : test::golden_models()) {
        CAPTURE(golden.name);
        Runner runner(ModelSource::open(golden.directory), on(Device::kRef), team);
        REQUIRE(golden.prompts.size() == 2);
        for (const auto& prompt : golden.prompts) {
            const auto logits = test::all_logits(runner, prompt.tokens);
            const double ratio =
                worst(runner.spec(), logits, widened(prompt.logits), kFloatEpsilon);
            CHECK(ratio < 1);
            CHECK(test::greedy(runner, prompt.tokens, prompt.greedy.size()) == prompt.greedy);
        }
    }
}

TEST_CASE("golden models: every instruction set agrees with the reference device") {
    Team team(2);
    for (const auto& golden : test::golden_models()) {
        Runner reference(ModelSource::open(golden.directory), on(Device::kRef), team);
        CAPTURE(golden.name);
        for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
            Runner runner(ModelSource::open(golden.directory),
                          on(Device::kCpu, static_cast<Isa>(level)), team);
            for (const auto& prompt : golden.prompts) {
                const auto wanted = test::all_logits(reference, prompt.tokens);
                const auto logits = test::all_logits(runner, prompt.tokens);
                const double ratio = worst(runner.spec(), wanted, logits, kFloatEpsilon);
                CHECK(ratio < 1);
                CHECK(test::greedy(runner, prompt.tokens, prompt.greedy.size()) == prompt.greedy);
            }
        }
    }
}
