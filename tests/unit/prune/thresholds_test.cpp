// SPDX-License-Identifier: Apache-2.0
// Thresholds on activations: quantiles by sorting, channels by hand, and what they drop of a model
// against the definition.
#include "prune/thresholds.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "core/cpu.h"
#include "core/error.h"
#include "kernels/layout/rng.h"
#include "model/block.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::prune;
using namespace thimble::test;

namespace {

const Progress kGoOn = [](const char*, std::int64_t, std::int64_t) { return true; };

// A tiny model over a text of four windows.
struct Measured {
    TemporaryDirectory directory;
    std::string path = directory.file("m.gguf");
    Team team{2};
    std::vector<std::int32_t> tokens;
    Texts texts;
    explicit Measured(const std::string& golden = "llama-tied") {
        write_tiny_model(path, golden);
        for (std::int32_t i = 0; i < 256; ++i) tokens.push_back(1 + (i * i * 7 + i * 29) % 90);
        for (std::size_t w = 0; w < 4; ++w) texts.push_back(std::span(tokens).subspan(64 * w, 64));
    }
    [[nodiscard]] std::unique_ptr<Runner> runner(const std::string& of) {
        RunnerOptions options;
        options.isa = best_isa();
        options.activations = Activations::kF32;
        options.kv.context_tokens = 64;
        options.step_tokens = 48;  // texts come in two steps
        return std::make_unique<Runner>(ModelSource::open(of), options, team);
    }
    [[nodiscard]] Thresholds thresholds(const ThresholdRule& rule) {
        return measure_thresholds(*runner(path), texts, rule, kGoOn);
    }
};

// What a set of thresholds drops of a layer: the share, and the sum of a^2 u^2.
class Dropped final : public Tap {
  public:
    explicit Dropped(const Thresholds& thresholds) : thresholds_(thresholds) {}
    void input(UnitId, std::span<const std::size_t>, View) override {}
    void gated(const Exec&, UnitId unit, View gate, View up) override {
        const std::vector<float>& least = thresholds_[static_cast<std::size_t>(unit.layer)];
        for (std::int64_t r = first ? 1 : 0; r < gate.rows; ++r) {
            for (std::int64_t c = 0; c < gate.cols; ++c) {
                const double g = gate.row<float>(r)[c], a = g / (1 + std::exp(-g));
                const double u = up.row<float>(r)[c];
                ++seen;
                if (std::abs(a) > double{least[static_cast<std::size_t>(c)]}) continue;
                ++count, energy += a * a * u * u;
            }
        }
        first = false;
    }
    double count = 0, seen = 0, energy = 0;
    bool first = true;

  private:
    const Thresholds& thresholds_;
};

std::vector<Dropped> dropped_by(Measured& m, const Thresholds& thresholds) {
    const auto runner = m.runner(m.path);
    const std::int64_t hidden = runner->spec().hidden;
    std::vector<float> memory(static_cast<std::size_t>(64 * hidden));
    const View x = {reinterpret_cast<std::byte*>(memory.data()), DType::kF32, 64, hidden, hidden};
    std::vector<Dropped> out(thresholds.size(), Dropped(thresholds));
    for (const auto& text : m.texts) {
        runner->embed({&text, 1}, x);
        for (std::size_t l = 0; l < out.size(); ++l) {
            out[l].first = true;
            runner->sweep_layer(static_cast<std::int64_t>(l), {&text, 1}, x, &out[l]);
        }
    }
    return out;
}

}  // namespace

TEST_CASE("size counts: quantiles are those of the sorted sizes") {
    std::vector<float> sizes;
    SizeCounts counts;
    for (std::uint64_t i = 0; i < 20000; ++i) {
        const float size = std::exp(20 * unit_float(philox(1, i).v[0]) - 15);
        sizes.push_back(size);
        counts.add(size);
    }
    std::sort(sizes.begin(), sizes.end());
    for (const double share : {0.001, 0.3, 0.5, 0.9, 0.999}) {
        const auto at = static_cast<std::size_t>(share * 20000);
        CHECK(counts.quantile(share) == doctest::Approx(double{sizes[at]}).epsilon(0.01));
    }
    counts.clear();
    for (int i = 0; i < 60; ++i) counts.add(0);
    for (int i = 0; i < 40; ++i) counts.add(1);
    CHECK(counts.quantile(0.5) < 1e-38F);
    CHECK(counts.quantile(0.61) >= 1);
}

TEST_CASE("channel thresholds: by hand, and what adds nothing always goes") {
    const std::vector<double> squares = {4, 0.25, 0, 1e-300};
    const std::vector<float> t = channel_thresholds(9, squares);
    CHECK(t[0] == 1.5F);
    CHECK(t[1] == 6);
    CHECK(t[2] == std::numeric_limits<float>::max());
    CHECK(t[3] == std::numeric_limits<float>::max());
    // Channels that are all alike have one threshold, as with CATS.
    const std::vector<double> alike(5, 2.25);
    for (const float one : channel_thresholds(9, alike)) CHECK(one == 2);
}

TEST_CASE("thresholds: the share that was asked for goes, and less is lost than with one for all") {
    for (const double sparsity : {0.3, 0.5, 0.8}) {
        CAPTURE(sparsity);
        Measured m;
        const Thresholds chess = m.thresholds({sparsity, true}),
                         cats = m.thresholds({sparsity, false});
        const std::vector<Dropped> by_channel = dropped_by(m, chess),
                                   by_layer = dropped_by(m, cats);
        for (std::size_t l = 0; l < chess.size(); ++l) {
            CAPTURE(l);
            CHECK(by_channel[l].seen == 4 * 63 * 96);
            CHECK(by_channel[l].count / by_channel[l].seen ==
                  doctest::Approx(sparsity).epsilon(0.01));
            CHECK(by_layer[l].count / by_layer[l].seen == doctest::Approx(sparsity).epsilon(0.01));
            CHECK(by_channel[l].energy < by_layer[l].energy);
            for (const float t : cats[l]) CHECK(t == cats[l].front());
        }
        // A model that has them drops as much; only its first layer reads what it was measured on.
        ModelCopy copy = tiny_model("llama-tied");
        write_thresholds(chess, "test", copy.metadata);
        copy.write_gguf(m.path);
        const std::vector<double> shares = measure_dropped(*m.runner(m.path), m.texts, kGoOn);
        CHECK(shares[0] == doctest::Approx(sparsity).epsilon(0.01));
        for (const double share : shares) CHECK(share == doctest::Approx(sparsity).epsilon(0.1));
    }
}

TEST_CASE("thresholds: first tokens of texts do not count") {
    Measured m;
    ModelCopy copy = tiny_model("llama-tied");  // in which tokens know nothing of one another
    for (const int layer : {0, 1}) {
        const std::size_t at = copy.index("blk." + std::to_string(layer) + ".attn_output.weight");
        std::fill(copy.data[at].begin(), copy.data[at].end(), std::byte{0});
    }
    copy.write_gguf(m.path);
    const Thresholds by_channel = m.thresholds({0.5, true}), by_layer = m.thresholds({0.5, false});
    for (std::size_t w = 0; w < 4; ++w) m.tokens[64 * w] = 80;
    CHECK(m.thresholds({0.5, true}) == by_channel);
    CHECK(m.thresholds({0.5, false}) == by_layer);
    m.tokens[1] = 80;
    CHECK(m.thresholds({0.5, true}) != by_channel);
}

TEST_CASE("thresholds: none are asked for, or there is nothing to put them on") {
    Measured m;
    for (const std::vector<float>& layer : m.thresholds({0, true}))
        for (const float t : layer) CHECK(t == 0);
    Measured hgrn("hgrn-bit");
    CHECK_THROWS_AS((void)hgrn.thresholds({0.5, true}), Error);
}
