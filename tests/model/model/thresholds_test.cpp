// SPDX-License-Identifier: Apache-2.0
// Models that drop small activations: every way of running one gives the logits of the reference
// device, which meets all weights and zeros; the ledger is the plan; damaged thresholds are named.
#include "model/thresholds.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "core/cpu.h"
#include "core/error.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

constexpr float kMost = std::numeric_limits<float>::max();

// A golden model with thresholds: of each layer 0, `some`, or all that a float can be, in turn.
std::string write_model(const test::TempDir& directory, const std::string& golden,
                        const std::string& format, float some) {
    test::ModelCopy copy = test::ModelCopy::as_gguf(test::golden_directory(golden), format);
    const std::size_t up = copy.index("blk.0.ffn_up.weight");
    Thresholds thresholds;
    while (true) {
        const std::string name = "blk." + std::to_string(thresholds.size()) + ".attn_q.weight";
        if (std::ranges::none_of(copy.specs, [&](const auto& s) { return s.name == name; })) break;
        std::vector<float>& layer = thresholds.emplace_back();
        for (std::uint64_t c = 0; c < copy.specs[up].dims.front(); ++c)
            layer.push_back(c % 5 == 0 ? 0 : c % 7 == 0 ? kMost : some);
    }
    write_thresholds(thresholds, "test", copy.metadata);
    const std::string path = directory / (golden + "-" + format + ".gguf");
    copy.write_gguf(path);
    return path;
}

struct Run {
    std::vector<double> logits;
    std::uint64_t peak_bytes = 0, planned_bytes = 0;
};

// `drops`: with its thresholds.
Run run(const std::string& path, RunnerOptions options, std::span<const std::int32_t> tokens,
        bool drops = true, int threads = 2) {
    options.kv.context_tokens = 64;
    options.kv.type_k = options.kv.type_v = "f32";
    Team team(threads);
    auto source = ModelSource::open(path);
    REQUIRE(!source->thresholds().empty());
    if (!drops) source->drop_thresholds();
    Run out;
    Plan plan;
    const std::int64_t count = std::ssize(tokens);
    Runner::add_to_plan(plan, *source, options, count, 1, count);
    out.planned_bytes = plan.total_bytes(Tier::kRam);
    const auto others = Ledger::process().current_bytes(Tier::kRam);
    Ledger::process().reset_peaks();
    Runner runner(std::move(source), options, team);
    out.logits = test::all_logits(runner, tokens);
    out.peak_bytes = Ledger::process().peak_bytes(Tier::kRam) - others;
    return out;
}

void check_close(const ModelSpec& spec, const std::vector<double>& got,
                 const std::vector<double>& want) {
    REQUIRE(got.size() == want.size());
    const auto vocab = static_cast<std::size_t>(spec.vocab);
    for (std::size_t at = 0; at < got.size(); at += vocab) {
        const double most = test::rounding_tolerance(spec, std::span(want).subspan(at, vocab),
                                                     std::numeric_limits<float>::epsilon());
        double worst = 0;
        for (std::size_t i = at; i < at + vocab; ++i)
            worst = std::max(worst, std::abs(got[i] - want[i]));
        REQUIRE(worst <= most);
    }
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
    return most;
}

}  // namespace

TEST_CASE("thresholds: token by token, in batches, from disk: what the reference device drops") {
    const test::TempDir directory;
    for (const std::string golden : {"llama-untied", "gemma3"}) {
        const auto& tokens = test::golden_model(golden).prompts[1].tokens;
        for (const std::string format : {"f32", "f16", "bf16", "q8_0"}) {
            CAPTURE(golden);
            CAPTURE(format);
            const std::string path = write_model(directory, golden, format, 0.05F);
            const auto source = ModelSource::open(path);
            RunnerOptions oracle;
            oracle.device = Device::kRef;
            const std::vector<double> want = run(path, oracle, tokens).logits;
            CHECK(distance(want, run(path, oracle, tokens, false).logits) > 1e-3);
            for (int isa = 0; isa <= static_cast<int>(best_isa()); ++isa) {
                RunnerOptions options;
                options.isa = static_cast<Isa>(isa);
                options.activations = Activations::kF32;
                CAPTURE(name(options.isa));
                const Run batch = run(path, options, tokens);
                check_close(source->spec(), batch.logits, want);
                CHECK(batch.peak_bytes == batch.planned_bytes);
                options.step_tokens = 1;
                const Run alone = run(path, options, tokens);
                check_close(source->spec(), alone.logits, want);
                CHECK(alone.peak_bytes == alone.planned_bytes);
                CHECK(run(path, options, tokens, true, 1).logits == alone.logits);
                options.weight_bytes = 0;
                const Run streamed = run(path, options, tokens);
                CHECK(streamed.logits == alone.logits);
                CHECK(streamed.peak_bytes == streamed.planned_bytes);
                options.step_tokens = 512;
                CHECK(run(path, options, tokens).logits == batch.logits);
                // Batches meet the bits of weights that lie as always.
                options.weight_bytes = UINT64_MAX, options.repack = false;
                check_close(source->spec(), run(path, options, tokens).logits, want);
            }
        }
    }
}

TEST_CASE("thresholds: what has none is dense, and 0 drops nothing") {
    const test::TempDir directory;
    const auto& tokens = test::golden_model("llama-untied").prompts[1].tokens;
    test::ModelCopy copy = test::ModelCopy::as_gguf(test::golden_directory("llama-untied"), "bf16");
    const std::uint64_t channels = copy.specs[copy.index("blk.0.ffn_up.weight")].dims.front();
    write_thresholds({2, std::vector<float>(channels, 0.0F)}, "test", copy.metadata);
    const std::string path = directory / "zero.gguf";
    copy.write_gguf(path);
    RunnerOptions options;
    options.isa = best_isa();
    CHECK(run(path, options, tokens).logits == run(path, options, tokens, false).logits);
    options.step_tokens = 1;
    const std::vector<double> want = run(path, options, tokens, false).logits;
    check_close(ModelSource::open(path)->spec(), run(path, options, tokens).logits, want);
}

TEST_CASE("thresholds: damage is named") {
    const test::TempDir directory;
    const test::ModelCopy sound =
        test::ModelCopy::as_gguf(test::golden_directory("llama-untied"), "f32");
    const std::uint64_t channels = sound.specs[sound.index("blk.0.ffn_up.weight")].dims.front();
    const auto refuses = [&](const Thresholds& thresholds, const std::string& key) {
        test::ModelCopy copy = sound;
        write_thresholds(thresholds, "test", copy.metadata);
        copy.write_gguf(directory / "bad.gguf");
        try {
            (void)ModelSource::open(directory / "bad.gguf");
            FAIL("was opened");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kBadData);
            CHECK(e.where().find(key) != std::string::npos);
        }
    };
    const std::vector<float> good(channels, 0.5F), less(channels - 1, 0.5F);
    std::vector<float> negative = good, endless = good, none = good;
    negative[3] = -1, endless[4] = std::numeric_limits<float>::infinity();
    none[5] = std::numeric_limits<float>::quiet_NaN();
    refuses({good, less}, "thimble.ffn_thresholds.1");
    refuses({good}, "thimble.ffn_thresholds.1");
    refuses({good, good, good}, "thimble.ffn_thresholds.2");
    for (const std::vector<float>& bad : {negative, endless, none})
        refuses({bad, good}, "thimble.ffn_thresholds.0");
}
