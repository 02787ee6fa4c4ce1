// SPDX-License-Identifier: Apache-2.0
// Models with adapters: logits are PEFT's on every kind of store, a term of zeros changes no bit,
// and the ledger is the plan.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "core/cpu.h"
#include "core/error.h"
#include "tests/support/golden_adapter.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

constexpr double kFloatEpsilon = 0x1p-24;

RunnerOptions on(Device device, Isa isa) {
    RunnerOptions options;
    options.device = device;
    options.isa = isa;
    options.activations = Activations::kF32;
    options.kv.type_k = options.kv.type_v = "f32";
    options.kv.context_tokens = 64;
    return options;
}

struct Run {
    std::vector<double> logits;
    std::uint64_t peak_bytes = 0, planned_bytes = 0;
};

Run run(const std::string& model, const AdapterOptions& adapters, RunnerOptions options,
        std::span<const std::int32_t> tokens) {
    Team team(2);
    auto source = ModelSource::open(model);
    options.adapters = open_adapters(adapters, *source);
    Plan plan;
    Runner::add_to_plan(plan, *source, options, std::ssize(tokens), 1, std::ssize(tokens));
    const auto others = Ledger::process().current_bytes(Tier::kRam);
    Ledger::process().reset_peaks();
    Run out;
    Runner runner(std::move(source), options, team);
    out.logits = test::all_logits(runner, tokens);
    out.peak_bytes = Ledger::process().peak_bytes(Tier::kRam) - others;
    out.planned_bytes = plan.total_bytes(Tier::kRam);
    return out;
}

// Largest |a - b| of a row over what rounding allows there.
double worst(const ModelSpec& spec, std::span<const double> a, std::span<const double> b) {
    REQUIRE(a.size() == b.size());
    const auto vocab = static_cast<std::size_t>(spec.vocab);
    double ratio = 0;
    for (std::size_t at = 0; at < a.size(); at += vocab) {
        const double allowed = test::rounding_tolerance(spec, a.subspan(at, vocab), kFloatEpsilon);
        for (std::size_t i = at; i < at + vocab; ++i) {
            const double error = std::abs(a[i] - b[i]);
            ratio = std::isfinite(error) ? std::max(ratio, error / allowed) : INFINITY;
        }
    }
    return ratio;
}

std::vector<double> widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// A golden adapter whose B is zero (and whose lengths are the rows' own: DoRA has none here).
std::string without_effect(const test::GoldenAdapter& golden, const ModelSource& source,
                           const test::TempDir& dir) {
    const AdapterFile file(golden.directory, source);
    Buffer memory(file.value_bytes(), Purpose::kWeights);
    Adapter adapter = file.read(memory.data());
    std::vector<float> zeros;
    for (const AdapterMatrix& m : adapter.matrices)
        zeros.resize(std::max(zeros.size(), static_cast<std::size_t>(m.out() * m.rank)));
    for (AdapterMatrix& m : adapter.matrices) m.b = zeros.data();
    const std::string path = dir / "none.gguf";
    write_gguf_adapter(path, source, adapter, {});
    return path;
}

}  // namespace

TEST_CASE(
    "adapters: logits are PEFT's, on both devices, from both containers, in memory and streamed") {
    const test::TempDir dir;
    for (const test::GoldenAdapter& golden : test::golden_adapters()) {
        CAPTURE(golden.name);
        const std::string gguf = dir / (golden.name + ".gguf");
        test::ModelCopy::as_gguf(golden.model->directory, "f32").write_gguf(gguf);
        const auto source = ModelSource::open(golden.model->directory);
        const auto& tokens = golden.model->prompts[1].tokens;
        for (const std::string& model : {golden.model->directory, gguf}) {
            CAPTURE(model);
            for (const RunnerOptions& options :
                 {on(Device::kRef, Isa::kPortable), on(Device::kCpu, Isa::kPortable),
                  on(Device::kCpu, best_isa())}) {
                const Run whole = run(model, {{golden.directory}, {}}, options, tokens);
                CHECK(worst(source->spec(), widened(golden.logits), whole.logits) < 1);
                CHECK(worst(source->spec(), widened(golden.plain), whole.logits) > 100);
                CHECK(whole.peak_bytes == whole.planned_bytes);
                RunnerOptions least = options;
                least.weight_bytes = 0;
                least.step_tokens = 5;
                const Run streamed = run(model, {{golden.directory}, {}}, least, tokens);
                CHECK(streamed.logits == whole.logits);
                CHECK(streamed.peak_bytes == streamed.planned_bytes);
            }
        }
    }
}

TEST_CASE("adapters: terms of zeros leave every bit, whatever holds the weights") {
    const test::GoldenAdapter& golden = test::golden_adapter("lora");
    const test::TempDir dir;
    const auto& tokens = golden.model->prompts[1].tokens;
    for (const char* format : {"f32", "q8_0", "q4_0"}) {
        CAPTURE(format);
        const std::string model = dir / (std::string(format) + ".gguf");
        test::ModelCopy::as_gguf(golden.model->directory, format).write_gguf(model);
        const std::string none = without_effect(golden, *ModelSource::open(model), dir);
        RunnerOptions options;
        options.isa = best_isa();
        const Run plain = run(model, {}, options, tokens);
        CHECK(run(model, {{none}, {}}, options, tokens).logits == plain.logits);
        CHECK(run(model, {{golden.directory}, {"0"}}, options, tokens).logits == plain.logits);
        CHECK(run(model, {{golden.directory}, {}}, options, tokens).logits != plain.logits);
        std::filesystem::remove(none);
    }
}

TEST_CASE("adapters: several are added, each times its scale") {
    const test::GoldenAdapter& golden = test::golden_adapter("rslora");
    const auto& tokens = golden.model->prompts[1].tokens;
    const RunnerOptions options = on(Device::kRef, Isa::kPortable);
    const std::string& model = golden.model->directory;
    const auto source = ModelSource::open(model);
    const auto& path = golden.directory;
    const Run once = run(model, {{path}, {}}, options, tokens);
    const auto same = [&](const AdapterOptions& adapters) {
        const Run other = run(model, adapters, options, tokens);
        CHECK(other.peak_bytes == other.planned_bytes);
        return worst(source->spec(), once.logits, other.logits) < 1e-6;
    };
    CHECK(same({{path, path}, {"0.5"}}));
    CHECK(same({{path, path}, {"-0.25", "1.25"}}));
    CHECK_FALSE(same({{path, path}, {}}));
    CHECK_FALSE(same({{path}, {"0.5"}}));
}

TEST_CASE("adapters: what does not go together is refused") {
    const test::GoldenAdapter& dora = test::golden_adapter("dora");
    const auto source = ModelSource::open(dora.model->directory);
    const auto refused = [&](const AdapterOptions& options, const char* why) {
        CAPTURE(why);
        try {
            (void)open_adapters(options, *source);
            FAIL_CHECK("accepted");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            CHECK_MESSAGE(std::string(e.what()).find(why) != std::string::npos, e.what());
        }
    };
    refused({{dora.directory, dora.directory}, {}}, "one of them is DoRA");
    refused({{dora.directory}, {"1", "2"}}, "2 scales for 1 adapters");
    refused({{}, {"1"}}, "there is no adapter");
    refused({{dora.directory}, {"x"}}, "'x' is not a number");
    refused({{dora.directory}, {"inf"}}, "'inf' is not a number");
    RunnerOptions options = on(Device::kCuda, best_isa());
    options.adapters = open_adapters({{dora.directory}, {}}, *source);
    CHECK_THROWS_WITH_AS((void)Runner::describe_placement(*source, options),
                         doctest::Contains("not applied on a CUDA device"), Error);
}
