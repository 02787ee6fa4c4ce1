// SPDX-License-Identifier: Apache-2.0
// A store that reads layers from disk in each pass gives the logits of one that holds all weights,
// bit for bit, and holds what it said.
#include <doctest/doctest.h>

#include <filesystem>

#include "core/cpu.h"
#include "core/error.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

RunnerOptions best() {
    RunnerOptions options;
    options.isa = best_isa();
    options.kv.context_tokens = 64;
    return options;
}

struct Run {
    std::vector<double> logits;
    std::vector<std::int32_t> greedy;
    std::uint64_t peak_bytes = 0;
};

Run run(const std::string& path, const RunnerOptions& options,
        std::span<const std::int32_t> tokens) {
    Team team(2);
    auto source = ModelSource::open(path);
    const auto others = Ledger::process().current_bytes(Tier::kRam);
    Ledger::process().reset_peaks();
    Run out;
    Runner runner(std::move(source), options, team);
    out.logits = test::all_logits(runner, tokens);
    out.peak_bytes = Ledger::process().peak_bytes(Tier::kRam) - others;
    out.greedy = test::greedy(runner, tokens, 5);
    return out;
}

std::uint64_t planned(const std::string& path, const RunnerOptions& options, std::int64_t tokens) {
    Plan plan;
    Runner::add_to_plan(plan, *ModelSource::open(path), options, tokens, 1, tokens);
    return plan.total_bytes(Tier::kRam);
}

}  // namespace

TEST_CASE("streamed store: same bits as with all weights in memory, and the ledger is the plan") {
    const test::TempDir directory;
    for (const auto& golden : test::golden_models()) {
        const auto& tokens = golden.prompts[1].tokens;
        for (const char* format : {"f32", "f16", "q8_0", "q4_0"}) {
            CAPTURE(golden.name);
            CAPTURE(format);
            const std::string path = directory / (golden.name + "-" + format + ".gguf");
            test::ModelCopy::as_gguf(golden.directory, format).write_gguf(path);
            RunnerOptions options = best();
            const Run whole = run(path, options, tokens);
            const std::uint64_t most =
                Runner::store_plan(*ModelSource::open(path), options).held_bytes();
            options.weight_bytes = 0;
            const StorePlan least = Runner::store_plan(*ModelSource::open(path), options);
            const std::int64_t layers = ModelSource::open(path)->spec().layers;
            CHECK(least.streamed_layers == layers);
            for (const std::uint64_t budget : {std::uint64_t{0}, least.held_bytes(),
                                               (least.held_bytes() + most) / 2, most - 1}) {
                options.weight_bytes = budget;
                CAPTURE(budget);
                for (const std::int64_t step : {64, 5}) {
                    options.step_tokens = step;
                    const Run streamed = run(path, options, tokens);
                    CHECK(streamed.logits == whole.logits);
                    CHECK(streamed.greedy == whole.greedy);
                    CHECK(streamed.peak_bytes == planned(path, options, std::ssize(tokens)));
                }
                options.step_tokens = 512;
            }
        }
    }
}

TEST_CASE("streamed store: a Hugging Face directory with permuted rows, and double precision") {
    for (const char* name : {"llama-untied", "gemma3"}) {
        const auto& golden = test::golden_model(name);
        for (const Device device : {Device::kCpu, Device::kRef}) {
            RunnerOptions options = best();
            options.device = device;
            const auto& tokens = golden.prompts[0].tokens;
            const Run whole = run(golden.directory, options, tokens);
            options.weight_bytes = 0;
            const Run streamed = run(golden.directory, options, tokens);
            CHECK(streamed.logits == whole.logits);
            CHECK(streamed.peak_bytes == planned(golden.directory, options, std::ssize(tokens)));
        }
    }
}

TEST_CASE("streamed store: a file that loses its end while it is used is an error") {
    const test::TempDir directory;
    const auto& golden = test::golden_model("gemma3");
    const std::string path = directory / "model.gguf";
    test::ModelCopy::as_gguf(golden.directory, "f32").write_gguf(path);
    RunnerOptions options = best();
    options.weight_bytes = 0;
    Team team(1);
    Runner runner(ModelSource::open(path), options, team);
    const auto before = test::all_logits(runner, golden.prompts[0].tokens);
    std::filesystem::resize_file(path, std::filesystem::file_size(path) / 4);
    try {
        for (int i = 0; i < 3; ++i) (void)test::all_logits(runner, golden.prompts[0].tokens);
        FAIL("the loss went unnoticed");
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kIo);
    }
}

TEST_CASE("sweep: layer by layer over several texts, each row has the bits of a forward pass") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        const auto& golden = test::golden_model(name);
        for (const std::uint64_t budget : {UINT64_MAX, std::uint64_t{0}}) {
            RunnerOptions options = best();
            options.step_tokens = 7;
            options.weight_bytes = budget;
            Team team(2);
            Runner runner(ModelSource::open(golden.directory), options, team);
            const std::span<const std::int32_t> first = golden.prompts[0].tokens,
                                                second = golden.prompts[1].tokens;
            const std::vector<std::span<const std::int32_t>> texts = {first, second, first};
            const std::int64_t rows = 2 * std::ssize(first) + std::ssize(second);
            const std::int64_t hidden = runner.spec().hidden;
            Buffer states(static_cast<std::size_t>(rows * hidden) * sizeof(float),
                          Purpose::kActivations);
            const View x = {states.data(), DType::kF32, rows, hidden, hidden};
            REQUIRE(runner.sweep(texts, x, nullptr, {}));
            std::vector<double> got;
            runner.head(x, nullptr, [&](std::int64_t, View logits) {
                for (std::int64_t r = 0; r < logits.rows; ++r) {
                    const float* row = logits.row<float>(r);
                    got.insert(got.end(), row, row + logits.cols);
                }
            });
            std::vector<double> want;
            for (const auto& text : texts) {
                const auto logits = test::all_logits(runner, text);
                want.insert(want.end(), logits.begin(), logits.end());
            }
            CHECK(got == want);
            std::int64_t layers = 0;
            CHECK_FALSE(runner.sweep(texts, x, nullptr, [&](std::int64_t n) {
                layers = n;
                return false;
            }));
            CHECK(layers == 1);
        }
    }
}
