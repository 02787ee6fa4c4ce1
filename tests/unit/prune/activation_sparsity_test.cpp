// SPDX-License-Identifier: Apache-2.0
// What leaving out small neurons costs a block's output: two neurons by hand, and every bound.
#include "prune/activation_sparsity.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/cpu.h"
#include "core/error.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::prune;
using namespace thimble::test;

namespace {

ActivationSparsity measured(double percent) {
    const TemporaryDirectory directory;
    write_tiny_model(directory.file("m.gguf"), "llama-tied");
    Team team(2);
    RunnerOptions options;
    options.isa = best_isa();
    options.activations = Activations::kF32;
    options.kv.context_tokens = 32;
    Runner runner(ModelSource::open(directory.file("m.gguf")), options, team);
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 96; ++i) tokens.push_back(1 + i * 29 % 90);
    const eval::Windows windows(tokens, 32, 0, std::nullopt, "test");
    return measure_activation_sparsity(
        runner, team, windows, percent,
        [](const char*, std::int64_t, std::int64_t) { return true; });
}

}  // namespace

TEST_CASE("CETT: two neurons by hand") {
    Team team(1);
    // One token; neuron 0 adds (3, 0), neuron 1 adds (0, -4): outputs of norm 3, 4 and 5.
    const std::vector<float> neurons = {1.5F, -2}, weights = {2, 0, 0, 2};
    const std::vector<double> norms = {2, 2}, thresholds = {0, 2.9, 3, 4};
    const std::vector<double> cett = cett_at(neurons, weights, 1, 2, norms, thresholds, team);
    CHECK(cett[0] == 0);
    CHECK(cett[1] == 0);
    CHECK(cett[2] == doctest::Approx(3.0 / 5));
    CHECK(cett[3] == doctest::Approx(1));
    // Two that cancel, left out together, are missed less than one of them alone.
    const std::vector<float> opposite = {1, -1, 1}, same = {1, 1.01F, 0, 0, 0, 5};
    const std::vector<double> sizes = {1, 1.01, 5}, at = {1, 1.01};
    const std::vector<double> both = cett_at(opposite, same, 1, 2, sizes, at, team);
    CHECK(both[1] < 0.01);
    CHECK(both[0] <= both[1]);
}

TEST_CASE(
    "activation sparsity: the rise is what was asked for, and more of it needs fewer neurons") {
    const ActivationSparsity one = measured(1), ten = measured(10);
    for (const ActivationSparsity* s : {&one, &ten}) {
        CHECK(s->sparse_perplexity <= s->dense_perplexity * (1 + s->percent / 100));
        CHECK(s->layers.size() == 2);
        CHECK(s->kept() > 0);
        CHECK(s->kept() <= 1);
    }
    CHECK(ten.cett >= one.cett);
    CHECK(ten.kept() <= one.kept());
    CHECK(ten.kept() < 1);
    CHECK(one.dense_perplexity == ten.dense_perplexity);
}
