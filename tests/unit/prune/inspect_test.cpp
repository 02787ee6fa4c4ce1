// SPDX-License-Identifier: Apache-2.0
// What passes through layers: a value put there is found, and medians are exact.
#include "prune/inspect.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "core/cpu.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::prune;
using namespace thimble::test;

namespace {

constexpr std::int64_t kHidden = 64;  // of llama-tied
constexpr std::int32_t kSpike = 17;   // a token
constexpr std::int64_t kDim = 29;

// Of llama-tied: the embedding of one token has one huge value.
Activity activity_of(float spike, bool silent) {
    const TemporaryDirectory directory;
    ModelCopy model = tiny_model("llama-tied");
    auto* rows = reinterpret_cast<float*>(model.data[model.index("token_embd.weight")].data());
    if (spike != 0) rows[kSpike * kHidden + kDim] = spike;
    for (const char* name : {"blk.1.attn_output.weight", "blk.1.ffn_down.weight"}) {
        auto& bytes = model.data[model.index(name)];
        if (silent) std::fill(bytes.begin(), bytes.end(), std::byte{0});
    }
    model.write_gguf(directory.file("m.gguf"));
    Team team(2);
    RunnerOptions options;
    options.isa = best_isa();
    options.activations = Activations::kF32;
    options.kv.context_tokens = 32;
    Runner runner(ModelSource::open(directory.file("m.gguf")), options, team);
    std::vector<std::int32_t> a, b;
    for (std::int32_t i = 0; i < 24; ++i) a.push_back(i == 9 ? kSpike : 30 + i);
    for (std::int32_t i = 0; i < 16; ++i) b.push_back(i == 3 ? kSpike : 60 - i);
    return watch_activity(runner, {a, b},
                          [](const char*, std::int64_t, std::int64_t) { return true; });
}

}  // namespace

TEST_CASE("inspect: a massive value is found where it is") {
    const Activity activity = activity_of(50000, true);
    REQUIRE(activity.layers.size() == 2);
    CHECK(activity.first_massive() == 0);
    CHECK(activity.last_massive() == 1);
    for (const LayerActivity& layer : activity.layers) {
        const Extreme& most = layer.extremes.front();
        CHECK(most.dim == kDim);
        CHECK(most.id == kSpike);
        CHECK((most.text == 0 ? most.token == 9 : most.token == 3));
        CHECK(most.value == doctest::Approx(50000).epsilon(1e-3));
        CHECK(layer.massive == 2);
        CHECK(layer.same_dim);
        CHECK(layer.ratio() > kMassiveRatio);
        CHECK(layer.extremes.size() == 3);
        CHECK(layer.extremes[1].dim != kDim);
    }
    // The second layer adds nothing.
    CHECK(activity.layers[1].influence < 1e-12);
    CHECK(activity.layers[0].influence > 1e-6);
}

TEST_CASE("inspect: a model without such values has none") {
    const Activity activity = activity_of(0, false);
    CHECK_FALSE(activity.first_massive());
    for (const LayerActivity& layer : activity.layers) {
        CHECK(layer.massive == 0);
        CHECK(layer.ratio() < 100);
        CHECK(layer.influence > 0);
        CHECK(layer.influence < 2);
    }
}

TEST_CASE("inspect: the median of sizes") {
    std::vector<float> scratch;
    const std::vector<float> odd = {-5, 1, 0, 3, -2}, even = {4, -1, 2, -3};
    CHECK(median_size(odd.data(), odd.size(), scratch) == 2);
    CHECK(median_size(even.data(), even.size(), scratch) == 2);
    std::vector<float> many;
    for (int i = 0; i < 999; ++i) many.push_back(static_cast<float>((i * 577) % 1009 - 500));
    std::vector<float> sizes;
    for (const float v : many) sizes.push_back(std::abs(v));
    std::sort(sizes.begin(), sizes.end());
    CHECK(median_size(many.data(), many.size(), scratch) == sizes[499]);
}
