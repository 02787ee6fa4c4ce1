// SPDX-License-Identifier: Apache-2.0
// Models on the CUDA device of this build (emulated, or a real one): the logits and tokens of the
// CPU, wherever weights and KV lie, and as much memory of either kind as was planned.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/cpu.h"
#include "core/error.h"
#include "kernels/cuda/stream.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

bool no_device() { return std::string_view(cuda::build_kind()) == "none"; }

RunnerOptions options_on(Device device) {
    RunnerOptions options;
    options.device = device;
    options.isa = best_isa();
    options.activations = Activations::kF32;
    options.kv.context_tokens = 200;
    options.kv.type_k = options.kv.type_v = "f32";
    return options;
}

struct Run {
    std::vector<double> logits;
    std::vector<std::int32_t> greedy;
    std::uint64_t ram = 0, vram = 0;  // peaks
};

// The largest logits as the device orders them are those of the row that it hands out.
void check_top(Runner& runner, std::span<const std::int32_t> tokens) {
    const SeqId seq = runner.kv().open();
    std::vector<float> row;
    runner.forward(seq, tokens, 1, [&](std::int64_t, View logits) {
        row.assign(logits.row<float>(0), logits.row<float>(0) + logits.cols);
    });
    std::vector<std::int32_t> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return row[static_cast<std::size_t>(a)] > row[static_cast<std::size_t>(b)];
    });
    for (const std::int64_t k : {std::int64_t{1}, std::int64_t{40}, runner.most_top()}) {
        const auto n = static_cast<std::size_t>(std::min(k, std::ssize(row)));
        std::vector<float> top(n);
        std::vector<std::int32_t> places(n);
        runner.kv().truncate(seq, 0);
        runner.forward_top(seq, tokens, top, places);
        CHECK(std::equal(places.begin(), places.end(), order.begin()));
        for (std::size_t i = 0; i < n; ++i)
            CHECK(top[i] == row[static_cast<std::size_t>(places[i])]);
    }
    runner.kv().close(seq);
}

Run run(const std::string& path, const RunnerOptions& options,
        std::span<const std::int32_t> tokens) {
    Team team(2);
    auto source = ModelSource::open(path);
    const auto others = Ledger::process().current_bytes(Tier::kRam);
    Ledger::process().reset_peaks();
    Run out;
    Runner runner(std::move(source), options, team);
    out.logits = test::all_logits(runner, tokens);
    out.ram = Ledger::process().peak_bytes(Tier::kRam) - others;
    out.vram = Ledger::process().peak_bytes(Tier::kVram);
    out.greedy = test::greedy(runner, tokens, 5);
    if (runner.most_top() > 0) check_top(runner, tokens.first(2));
    return out;
}

Plan planned(const std::string& path, const RunnerOptions& options, std::int64_t tokens) {
    Plan plan;
    Runner::add_to_plan(plan, *ModelSource::open(path), options, tokens, 1, tokens);
    return plan;
}

double most_difference(const Run& a, const Run& b) {
    REQUIRE(a.logits.size() == b.logits.size());
    double most = 0;
    for (std::size_t i = 0; i < a.logits.size(); ++i)
        most = std::max(most, std::abs(a.logits[i] - b.logits[i]));
    return most;
}
double largest(const Run& run) {
    double most = 0;
    for (const double v : run.logits) most = std::max(most, std::abs(v));
    return most;
}

// Device memory that these options take at the least: every layer streamed, no KV there.
std::uint64_t least_vram(const std::string& path, RunnerOptions options) {
    options.cuda.vram_bytes = 0;
    return planned(path, options, 1).total_bytes(Tier::kVram);
}

}  // namespace

TEST_SUITE("cuda" * doctest::skip(no_device())) {
    TEST_CASE("cuda: golden models give the CPU's logits with all, some and no layers there") {
        const test::TempDir directory;
        for (const auto& golden : test::golden_models()) {
            const auto& tokens = golden.prompts[1].tokens;
            for (const char* format : {"f32", "q8_0"}) {
                CAPTURE(golden.name);
                CAPTURE(format);
                const std::string path = directory / (golden.name + "-" + format + ".gguf");
                test::ModelCopy::as_gguf(golden.directory, format).write_gguf(path);
                const Run cpu = run(path, options_on(Device::kCpu), tokens);
                for (const std::int64_t layers : {-1, 1, 0}) {
                    RunnerOptions options = options_on(Device::kCuda);
                    options.cuda.layers = layers;
                    for (const std::int64_t step : {512, 5}) {
                        options.step_tokens = step;
                        CAPTURE(layers);
                        CAPTURE(step);
                        const Run device = run(path, options, tokens);
                        CHECK(most_difference(device, cpu) <= 2e-4 * largest(cpu));
                        CHECK(device.greedy == cpu.greedy);
                        const Plan plan = planned(path, options, std::ssize(tokens));
                        CHECK(device.ram == plan.total_bytes(Tier::kRam));
                        CHECK(device.vram == plan.total_bytes(Tier::kVram));
                        CHECK((device.vram > 0) == (layers != 0));
                    }
                }
            }
        }
    }

    TEST_CASE("cuda: with less device memory weights are streamed and KV stays on the host") {
        const test::TempDir directory;
        for (const char* name : {"llama-untied", "gemma3"}) {
            const auto& golden = test::golden_model(name);
            std::vector<std::int32_t> tokens;
            while (tokens.size() < 150)
                tokens.insert(tokens.end(), golden.prompts[1].tokens.begin(),
                              golden.prompts[1].tokens.end());
            tokens.resize(150);
            CAPTURE(name);
            const std::string path = directory / (std::string(name) + ".gguf");
            test::ModelCopy::as_gguf(golden.directory, "q8_0").write_gguf(path);
            RunnerOptions options = options_on(Device::kCuda);
            options.step_tokens = 64;
            const Run whole = run(path, options, tokens);
            const std::uint64_t least = least_vram(path, options);
            REQUIRE(least < whole.vram);
            std::uint64_t before = 0;
            for (int i = 0; i <= 6; ++i) {
                options.cuda.vram_bytes =
                    least + (whole.vram - least) * static_cast<unsigned>(i) / 6;
                CAPTURE(i);
                const Run some = run(path, options, tokens);
                CHECK(some.vram <= options.cuda.vram_bytes);
                CHECK(some.vram >= before);
                before = some.vram;
                CHECK(most_difference(some, whole) <= 2e-4 * largest(whole));
                CHECK(some.greedy == whole.greedy);
                const Plan plan = planned(path, options, std::ssize(tokens));
                CHECK(some.vram == plan.total_bytes(Tier::kVram));
                CHECK(some.ram == plan.total_bytes(Tier::kRam));
            }
        }
    }

    TEST_CASE("cuda: keys in f16 and q8_0, and a policy with sinks") {
        const test::TempDir directory;
        const auto& golden = test::golden_model("llama-untied");
        std::vector<std::int32_t> tokens;
        for (int i = 0; i < 12; ++i)
            tokens.insert(tokens.end(), golden.prompts[0].tokens.begin(),
                          golden.prompts[0].tokens.end());
        tokens.resize(std::min<std::size_t>(tokens.size(), 180));
        const std::string path = directory / "model.gguf";
        test::ModelCopy::as_gguf(golden.directory, "f16").write_gguf(path);
        for (const char* type : {"f16", "f32"}) {
            for (const char* policy : {"full", "streaming:sink=4,budget=96"}) {
                RunnerOptions cpu = options_on(Device::kCpu), device = options_on(Device::kCuda);
                cpu.kv.type_k = cpu.kv.type_v = device.kv.type_k = device.kv.type_v = type;
                cpu.kv.policy = device.kv.policy = policy;
                cpu.step_tokens = device.step_tokens = 48;
                CAPTURE(type);
                CAPTURE(policy);
                const Run want = run(path, cpu, tokens);
                const Run got = run(path, device, tokens);
                CHECK(most_difference(got, want) <= 2e-3 * largest(want));
                CHECK(got.greedy == want.greedy);
            }
        }
    }

    TEST_CASE("cuda: the matrix of a tied head there is the embedding's, too, and in RAM no more") {
        const test::TempDir directory;
        for (const char* name : {"gemma3", "llama-tied", "llama-untied"}) {
            const auto& golden = test::golden_model(name);
            CAPTURE(name);
            const std::string path = directory / (std::string(name) + ".gguf");
            test::ModelCopy::as_gguf(golden.directory, "q8_0").write_gguf(path);
            RunnerOptions options = options_on(Device::kCuda);
            options.step_tokens = 5;
            auto source = ModelSource::open(path);
            const ModelSpec& spec = source->spec();
            Plan plan = planned(path, options, 1);
            CHECK((plan.at(Tier::kRam, Purpose::kWeights) == 0) == spec.tied_embedding);
            // Two texts, longer and shorter than a step, layer by layer.
            const auto& tokens = golden.prompts[1].tokens;
            const std::array texts{std::span(tokens).first(7), std::span(tokens).subspan(2, 3)};
            Team team(2);
            Runner runner(std::move(source), options, team);
            std::vector<float> hidden(static_cast<std::size_t>(10 * runner.spec().hidden));
            const View x{hidden.data(), DType::kF32, 10, runner.spec().hidden,
                         runner.spec().hidden};
            REQUIRE(runner.sweep(texts, x, nullptr, {}));
            std::vector<double> swept;
            runner.head(x, nullptr, [&](std::int64_t, View logits) {
                for (std::int64_t r = 0; r < logits.rows; ++r)
                    swept.insert(swept.end(), logits.row<float>(r),
                                 logits.row<float>(r) + logits.cols);
            });
            std::vector<double> want = test::all_logits(runner, texts[0]);
            const std::vector<double> second = test::all_logits(runner, texts[1]);
            want.insert(want.end(), second.begin(), second.end());
            REQUIRE(swept.size() == want.size());
            double most = 0, size = 0;
            for (std::size_t i = 0; i < want.size(); ++i) {
                most = std::max(most, std::abs(swept[i] - want[i]));
                size = std::max(size, std::abs(want[i]));
            }
            CHECK(most <= 2e-4 * size);
        }
    }

    TEST_CASE("cuda: bit planes meet bit planes as on the CPU, in as much memory as was planned") {
        const test::TempDir directory;
        const auto& golden = test::golden_model("llama-tied");
        const auto& tokens = golden.prompts[1].tokens;
        REQUIRE(tokens.size() > 8);  // more than a matrix-vector product takes
        const std::string path = directory / "planes.gguf";
        test::ModelCopy::as_gguf(golden.directory, "bipolar:bits=3").write_gguf(path);
        const Run exact = run(path, options_on(Device::kCuda), tokens);
        for (const Activations bits : {Activations::kBits1, Activations::kBits8}) {
            const bool fine = bits == Activations::kBits8;
            CAPTURE(fine);
            RunnerOptions cpu = options_on(Device::kCpu), device = options_on(Device::kCuda);
            cpu.activations = device.activations = bits;
            const Run want = run(path, cpu, tokens);
            for (const std::int64_t step : {512, 3}) {
                if (step == 3 && !fine) continue;
                CAPTURE(step);
                device.step_tokens = step;
                const Run got = run(path, device, tokens);
                // Of 8 bits, one code more or less where the input lay between two; of one bit,
                // signs alone, which do not.
                CHECK(most_difference(got, want) <= 0.005 * largest(want));
                CHECK(most_difference(got, exact) >= (fine ? 0.01 : 0.1) * largest(exact));
                const Plan plan = planned(path, device, std::ssize(tokens));
                CHECK(got.ram == plan.total_bytes(Tier::kRam));
                CHECK(got.vram == plan.total_bytes(Tier::kVram));
            }
        }
    }

    TEST_CASE("cuda: a long prompt's weights are decoded in as much memory as was planned") {
        const test::TempDir directory;
        const auto& golden = test::golden_model("llama-tied");
        std::vector<std::int32_t> tokens;
        while (tokens.size() < 150) tokens.push_back(golden.prompts[1].tokens[tokens.size() % 7]);
        const std::string path = directory / "q8_0.gguf";
        test::ModelCopy::as_gguf(golden.directory, "q8_0").write_gguf(path);
        const Run want = run(path, options_on(Device::kCpu), tokens);
        RunnerOptions options = options_on(Device::kCuda);
        options.activations = Activations::kAuto;
        for (const std::int64_t step : {150, 50}) {
            options.step_tokens = step;
            CAPTURE(step);
            const Run got = run(path, options, tokens);
            CHECK(most_difference(got, want) <= 0.02 * largest(want));  // both factors in bf16
            CHECK(got.vram == planned(path, options, std::ssize(tokens)).total_bytes(Tier::kVram));
        }
    }

    TEST_CASE("cuda: activations that a device does not have are refused, naming another way") {
        const test::TempDir directory;
        const auto& golden = test::golden_model("llama-tied");
        const std::string path = directory / "q8_0.gguf";
        test::ModelCopy::as_gguf(golden.directory, "q8_0").write_gguf(path);
        const auto source = ModelSource::open(path);
        const auto refusal = [&](Device device, Activations activations) -> std::string {
            RunnerOptions options = options_on(device);
            options.activations = activations;
            Plan plan;
            try {
                Runner::add_to_plan(plan, *source, options, 1, 1, 1);
            } catch (const Error& e) {
                CHECK(e.exit() == Exit::kUsage);
                return e.what();
            }
            return {};
        };
        CHECK(refusal(Device::kCuda, Activations::kI8Token).find("--activations i8-token") == 0);
        CHECK(refusal(Device::kCuda, Activations::kBits1).find("--activations b1") == 0);
        CHECK(refusal(Device::kCuda, Activations::kBits8).find("--activations b8") == 0);
        CHECK(refusal(Device::kCuda, Activations::kI8).empty());
        CHECK(refusal(Device::kCpu, Activations::kI8Token).empty());
        CHECK(refusal(Device::kCpu, Activations::kBits8).empty());
    }
}
