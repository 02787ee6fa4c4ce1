// SPDX-License-Identifier: Apache-2.0
// What must not change a result (chunks, threads, rows asked for, container), and what a runner
// holds against what was planned.
#include <doctest/doctest.h>

#include <cmath>

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

std::vector<double> logits_of(const std::string& path, const RunnerOptions& options,
                              std::span<const std::int32_t> tokens, int threads = 1) {
    Team team(threads);
    Runner runner(ModelSource::open(path), options, team);
    return test::all_logits(runner, tokens);
}

}  // namespace

TEST_CASE("runner: same bits for every chunk size, thread count and number of logits rows") {
    for (const auto& golden : test::golden_models()) {
        const auto& tokens = golden.prompts[1].tokens;
        for (const char* type : {"f32", "f16"}) {
            INFO(golden.name, ' ', type);
            RunnerOptions options = best();
            options.kv.type_k = options.kv.type_v = type;
            const auto whole = logits_of(golden.directory, options, tokens);
            for (const std::int64_t step : {1, 3, 7}) {
                options.step_tokens = step;
                CHECK(logits_of(golden.directory, options, tokens) == whole);
            }
            options.step_tokens = 512;
            for (const int threads : {2, 3}) {
                CHECK(logits_of(golden.directory, options, tokens, threads) == whole);
            }
            options.logit_rows = 2;
            CHECK(logits_of(golden.directory, options, tokens) == whole);
        }
    }
}

TEST_CASE("runner: the logits of the last tokens are the tail of all logits") {
    const auto& golden = test::golden_model("gemma3");
    Team team(1);
    RunnerOptions options = best();
    options.step_tokens = 4;
    options.logit_rows = 3;
    Runner runner(ModelSource::open(golden.directory), options, team);
    const auto& tokens = golden.prompts[1].tokens;
    const auto all = test::all_logits(runner, tokens);
    const auto vocab = static_cast<std::size_t>(runner.spec().vocab);
    for (const std::int64_t wanted : {0, 1, 6, 31}) {
        const SeqId seq = runner.kv().open();
        std::int64_t next = 0;
        runner.forward(seq, tokens, wanted, [&](std::int64_t first, View rows) {
            CHECK(first == next);
            next += rows.rows;
            const std::size_t skipped =
                tokens.size() - static_cast<std::size_t>(wanted) + static_cast<std::size_t>(first);
            for (std::size_t i = 0; i < static_cast<std::size_t>(rows.rows) * vocab; ++i) {
                REQUIRE(double{rows.row<float>(0)[i]} == all[skipped * vocab + i]);
            }
        });
        CHECK(next == wanted);
        runner.kv().close(seq);
    }
}

TEST_CASE("runner: a GGUF copy computes what the Hugging Face directory does") {
    const test::TempDir dir;
    for (const auto& golden : test::golden_models()) {
        CAPTURE(golden.name);
        const auto type = ModelFile::open(golden.directory)->tensors().front().type;
        const std::string path = dir / (golden.name + ".gguf");
        test::ModelCopy::as_gguf(golden.directory, type == TensorType::kBF16 ? "bf16" : "f32")
            .write_gguf(path);
        const auto& tokens = golden.prompts[1].tokens;
        CHECK(logits_of(path, best(), tokens) == logits_of(golden.directory, best(), tokens));

        const auto hf = ModelSource::open(golden.directory), gguf = ModelSource::open(path);
        CHECK(hf->gguf_metadata().entries().size() == gguf->gguf_metadata().entries().size());
        CHECK(hf->spec().name == gguf->spec().name);
        CHECK(hf->tensors().size() == gguf->tensors().size());
    }
}

TEST_CASE("runner: packed weights give the reference device's logits") {
    const test::TempDir dir;
    const auto& golden = test::golden_model("llama-tied");
    const auto& tokens = golden.prompts[1].tokens;
    for (const char* format : {"f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"}) {
        CAPTURE(format);
        const std::string path = dir / "packed.gguf";
        test::ModelCopy::as_gguf(golden.directory, format).write_gguf(path);
        RunnerOptions options = best();
        options.activations = Activations::kF32;
        options.kv.type_k = options.kv.type_v = "f32";
        const auto cpu = logits_of(path, options, tokens);
        options.device = Device::kRef;
        const auto reference = logits_of(path, options, tokens);
        const ModelSpec spec = ModelSource::open(path)->spec();
        REQUIRE(cpu.size() == reference.size());
        const auto vocab = static_cast<std::size_t>(spec.vocab);
        for (std::size_t at = 0; at < cpu.size(); at += vocab) {
            const std::span row(reference.data() + at, vocab);
            const double allowed = test::rounding_tolerance(spec, row, 0x1p-24);
            for (std::size_t i = 0; i < vocab; ++i) {
                CHECK(std::abs(cpu[at + i] - row[i]) <= allowed);
            }
        }
    }
}

TEST_CASE("runner: the ledger holds exactly what was planned") {
    Ledger& ledger = Ledger::process();
    Team team(1);
    for (const auto& golden : test::golden_models()) {
        for (const Device device : {Device::kCpu, Device::kRef}) {
            CAPTURE(golden.name);
            auto source = ModelSource::open(golden.directory);
            RunnerOptions options = best();
            options.device = device;
            options.step_tokens = 8;
            const auto& tokens = golden.prompts[1].tokens;
            Plan plan;
            Runner::add_to_plan(plan, *source, options, static_cast<std::int64_t>(tokens.size()), 2,
                                5);
            BytesByPurpose before{};
            for (std::size_t p = 0; p < kPurposes; ++p) {
                before[p] = ledger.current_bytes(Tier::kRam, static_cast<Purpose>(p));
            }
            const std::uint64_t before_all = ledger.current_bytes(Tier::kRam);
            ledger.reset_peaks();
            Runner runner(std::move(source), options, team);
            for (int sequence = 0; sequence < 2; ++sequence) {
                const SeqId seq = runner.kv().open();
                runner.forward(seq, tokens, 5, [](std::int64_t, View) {});
            }
            for (std::size_t p = 0; p < kPurposes; ++p) {
                const auto purpose = static_cast<Purpose>(p);
                if (purpose == Purpose::kIo) continue;  // is over when the others begin
                CAPTURE(name(purpose));
                CHECK(ledger.current_bytes(Tier::kRam, purpose) - before[p] ==
                      plan.at(Tier::kRam, purpose));
            }
            CHECK(ledger.peak_bytes(Tier::kRam) - before_all == plan.total_bytes(Tier::kRam));
        }
    }
}

TEST_CASE("runner: bytes per token are the weights and the visible keys and values") {
    Team team(1);
    const auto& golden = test::golden_model("gemma3");
    const Runner runner(ModelSource::open(golden.directory), best(), team);
    // bf16 matrices: head and lookup row, per layer q, k, v, o, gate, up, down; f32 norms.
    const std::uint64_t layer_weights = 2 * (32 * 48 + 2 * 16 * 48 + 48 * 32 + 3 * 48 * 48);
    const std::uint64_t norms = 4 * (7 * (4 * 48 + 2 * 16) + 48);
    const std::uint64_t weights = 7 * layer_weights + norms + 2 * (128 * 48 + 48);
    const std::uint64_t row = 2 * 16 * 2;  // K and V of one head, f16
    CHECK(runner.bytes_per_token(20) == weights + row * (21 + 6 * 7));
}

TEST_CASE("runner: a token outside the vocabulary is refused") {
    Team team(1);
    Runner runner(ModelSource::open(test::golden_model("llama-tied").directory), best(), team);
    const SeqId seq = runner.kv().open();
    for (const std::int32_t token : {-1, 96, INT32_MAX}) {
        CHECK_THROWS_AS(runner.forward(seq, std::array{token}, 1, [](std::int64_t, View) {}),
                        Error);
    }
}
