// SPDX-License-Identifier: Apache-2.0
// The clock over whole steps of a model: bytes are those of the file's matrices and of the cache,
// and no logit changes.
#include <doctest/doctest.h>

#include "core/cpu.h"
#include "cost/kernel_profile.h"
#include "ops/op_clock.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using Phase = OpClock::Phase;

namespace {

// In memory, of what products read for a token; rows are padded to whole groups there.
std::uint64_t matrix_bytes(const ModelSource& source, bool repacked) {
    std::uint64_t bytes = 0;
    for (const SourceTensor& tensor : source.tensors()) {
        if (!tensor.is_matrix) continue;
        if (tensor.name == "token_embd.weight" && !source.spec().tied_embedding) continue;
        const auto layout = ops::resident_layout(tensor.layout());
        bytes += ops::packed_bytes(repacked && layout ? *layout : tensor.layout(),
                                   {tensor.rows(), tensor.cols()});
    }
    return bytes;
}

std::uint64_t bytes_of(const OpClock::Total& total, std::string_view operation) {
    std::uint64_t bytes = 0;
    for (const OpClock::Row& row : total.rows)
        if (row.operation == operation) bytes += row.bytes;
    return bytes;
}

}  // namespace

TEST_CASE(
    "profile: a token's bytes are the matrices' and the cache's, on every device and format") {
    const test::TempDir directory;
    for (const char* name : {"llama-tied", "gemma3"}) {
        const auto& golden = test::golden_model(name);
        const auto& tokens = golden.prompts[1].tokens;
        for (const char* format : {"f32", "q8_0", "q4_0"}) {
            const std::string path = directory / (golden.name + "-" + format + ".gguf");
            test::ModelCopy::as_gguf(golden.directory, format).write_gguf(path);
            for (const Device device : {Device::kCpu, Device::kRef}) {
                CAPTURE(golden.name);
                CAPTURE(format);
                CAPTURE(static_cast<int>(device));
                RunnerOptions options;
                options.device = device, options.isa = best_isa();
                options.kv.context_tokens = 64;
                Team team(2);
                Runner plain(ModelSource::open(path), options, team);
                const auto wanted = test::all_logits(plain, tokens);
                Runner runner(ModelSource::open(path), options, team);
                OpClock clock(team);
                runner.set_clock(&clock);
                enter_phase(runner.exec(), Phase::kPrompt, std::ssize(tokens));
                CHECK(test::all_logits(runner, tokens) == wanted);
                const SeqId seq = runner.kv().open();
                runner.forward(seq, tokens, 0, {});
                const std::int64_t held = runner.kv().tokens(seq);
                enter_phase(runner.exec(), Phase::kDecode, 1);
                runner.forward(seq, std::span(tokens).first(1), 1, [](std::int64_t, View) {});
                enter_phase(runner.exec(), Phase::kNone, 0);
                runner.set_clock(nullptr);
                const OpClock::Total& total = clock.total(Phase::kDecode);
                const std::uint64_t products = bytes_of(total, "matmul");
                CHECK(products == matrix_bytes(runner.source(), device == Device::kCpu));
                CHECK(bytes_of(total, "attention") > 0);
                // Norms, which are not in rows of products, are part of the other.
                const std::uint64_t all = runner.bytes_per_token(held);
                CHECK(products + bytes_of(total, "attention") <= all);
                CHECK(products + bytes_of(total, "attention") >= all * 9 / 10);
                runner.kv().close(seq);
            }
        }
    }
}

TEST_CASE("profile: what unpacking costs, of each matrix of a model") {
    const test::TempDir directory;
    const std::string path = directory / "model.gguf";
    test::ModelCopy::as_gguf(test::golden_model("llama-tied").directory, "q4_0").write_gguf(path);
    RunnerOptions options;
    options.isa = best_isa();
    options.kv.context_tokens = 64;
    Team team(1);
    Runner runner(ModelSource::open(path), options, team);
    std::size_t seen = 0, matrices = 0;
    runner.each_matrix([&](const PackedView& matrix) {
        ++seen;
        const cost::UnpackCost cost = cost::unpack_cost(runner.exec(), matrix);
        CHECK(cost.seconds_per_weight > 0);
        CHECK(cost.plain_seconds_per_weight > 0);
        CHECK(cost.share() >= 0);
        CHECK(cost.share() < 1);
        CHECK((cost.plain == "q8_0" || cost.plain == "f32"));
        return true;
    });
    for (const SourceTensor& tensor : runner.source().tensors()) matrices += tensor.is_matrix;
    CHECK(seen == matrices);  // the table is the head, too
    seen = 0;
    runner.each_matrix([&](const PackedView&) { return ++seen < 3; });
    CHECK(seen == 3);
}
