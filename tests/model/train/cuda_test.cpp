// SPDX-License-Identifier: Apache-2.0
// Training on the CUDA device of this build (emulated, or a real one) against training on the CPU.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/error.h"
#include "kernels/cuda/stream.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"
#include "train/trainer.h"

using namespace thimble;
using namespace thimble::train;

namespace {

bool no_device() { return std::string_view(cuda::build_kind()) == "none"; }

// Three documents; one token in five is not learnt.
struct Text {
    explicit Text(std::int64_t vocab) {
        for (std::int32_t i = 0; i < 24; ++i) {
            tokens.push_back(static_cast<std::int32_t>((i * 7 + 3) % vocab));
            targets.push_back(i % 5 == 2 ? -1 : static_cast<std::int32_t>((i * 7 + 10) % vocab));
        }
    }
    [[nodiscard]] Batch batch() const { return {tokens, targets, documents}; }
    std::vector<std::int32_t> tokens, targets;
    std::vector<std::int64_t> documents = {17, 1, 6};
};

struct Run {
    std::vector<double> losses, norms;
    double validation = 0;
    std::vector<std::vector<float>> before, after;
};

std::vector<std::vector<float>> values_of(Trainer& trainer) {
    std::vector<std::vector<float>> out;
    for (const Parameter& p : trainer.parameters().items()) {
        out.emplace_back(static_cast<std::size_t>(p.info.elements()));
        p.read(0, out.back());
    }
    return out;
}

// Every other step has `most` passes.
Run run_of(const ModelSource& source, TrainerOptions options, int steps,
           const std::string& state = {}, std::size_t most = 2) {
    Team team(2);
    options.isa = best_isa();
    options.threads = 2;
    options.pass.most_tokens = 24, options.pass.most_document = 20;
    Plan plan;
    Trainer::add_to_plan(plan, source, options);
    Ledger& ledger = Ledger::process();
    const auto ram = ledger.current_bytes(Tier::kRam), vram = ledger.current_bytes(Tier::kVram);
    ledger.reset_peaks();
    Trainer trainer(source, options, team);
    CHECK(ledger.current_bytes(Tier::kVram) - vram == plan.total_bytes(Tier::kVram));
    Run run;
    if (!state.empty()) (void)trainer.restore(state);
    run.before = values_of(trainer);
    const Text text(source.spec().vocab);
    for (int step = 0; step < steps; ++step) {
        const Batch batches[] = {text.batch(), text.batch()};
        const StepResult result =
            trainer.step(std::span(batches).first(step % 2 == 0 ? 1 : most), 0.05);
        run.losses.push_back(result.loss.loss), run.norms.push_back(result.norm);
    }
    run.validation = trainer.evaluate(text.batch()).loss;
    run.after = values_of(trainer);
    CHECK(ledger.peak_bytes(Tier::kRam) - ram == plan.total_bytes(Tier::kRam));
    CHECK(ledger.peak_bytes(Tier::kVram) - vram == plan.total_bytes(Tier::kVram));
    return run;
}

// A step of plain gradient descent is as far off as its gradients are; all by so much of the
// largest change of a parameter.
void check_close(const Run& got, const Run& want, double tolerance) {
    for (std::size_t i = 0; i < want.losses.size(); ++i) {
        CHECK(got.losses[i] == doctest::Approx(want.losses[i]).epsilon(tolerance));
        CHECK(got.norms[i] == doctest::Approx(want.norms[i]).epsilon(tolerance));
    }
    CHECK(got.validation == doctest::Approx(want.validation).epsilon(tolerance));
    REQUIRE(got.after.size() == want.after.size());
    double most = 0, change = 0;
    for (std::size_t i = 0; i < want.after.size(); ++i) {
        for (std::size_t e = 0; e < want.after[i].size(); ++e) {
            // The same but for DoRA's lengths, which are sums.
            REQUIRE(got.before[i][e] ==
                    doctest::Approx(static_cast<double>(want.before[i][e])).epsilon(0x1p-22));
            most =
                std::max(most, static_cast<double>(std::abs(got.after[i][e] - want.after[i][e])));
            change = std::max(change,
                              static_cast<double>(std::abs(want.after[i][e] - want.before[i][e])));
        }
    }
    CHECK(change > 0);
    CHECK(most <= tolerance * change);
}

void check_same(const Run& a, const Run& b) {
    CHECK(a.losses == b.losses);
    CHECK(a.norms == b.norms);
    CHECK(a.validation == b.validation);
    CHECK(a.after == b.after);
}

}  // namespace

TEST_SUITE("cuda" * doctest::skip(no_device())) {
    TEST_CASE("cuda: training takes the CPU's steps, in as much memory as was planned") {
        struct Way {
            const char *model, *method;
            bool bf16;
        };
        for (const Way& way : {Way{"llama-untied", "lora:rank=4,dropout=0.25,dora", true},
                               {"llama-untied", "full", false},
                               {"gemma3", "lora:rank=4,targets=attn_q,targets=ffn_down", false},
                               {"gemma3", "full", true}}) {
            CAPTURE(way.model);
            CAPTURE(way.method);
            const auto source = ModelSource::open(test::golden_model(way.model).directory);
            TrainerOptions options;
            options.method = way.method, options.optimizer = "sgd:momentum=0.9";
            options.seed = 3, options.bf16 = way.bf16;
            options.passes = 2;
            const Run cpu = run_of(*source, options, 2);
            options.device = Device::kCuda;
            // In bf16 the CPU rounds what attention multiplies as well: a dozen roundings of 2^-9 a
            // pass, two steps.
            check_close(run_of(*source, options, 2), cpu, way.bf16 ? 2 * 12 * 0x1p-9 : 1e-3);
        }
    }

    TEST_CASE("cuda: checkpoints, kinds of loss and what lies on disk change no step") {
        const auto source = ModelSource::open(test::golden_model("gemma3").directory);
        TrainerOptions options;
        options.device = Device::kCuda;
        const Run one = run_of(*source, options, 1);
        options.pass.checkpoint_layers = 3;
        check_same(run_of(*source, options, 1), one);
        options.pass.checkpoint_layers = 0;
        check_same(run_of(*source, options, 1), one);
        const test::TempDir directory;
        options.offload = Offload::parse("optimizer=disk,activations=disk", "test");
        options.offload_directory = directory.path();
        options.pass.checkpoint_layers = 1;
        check_same(run_of(*source, options, 1), one);
        options.pass.loss = LossKind::kDense;
        CHECK(run_of(*source, options, 1).losses[1] ==
              doctest::Approx(one.losses[1]).epsilon(1e-5));
    }

    TEST_CASE("cuda: updates in backward have the bits of those behind it") {
        const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
        const auto check = [&](TrainerOptions options, TrainerOptions in_backward) {
            options.device = in_backward.device = Device::kCuda;
            const Run behind = run_of(*source, options, 2, {}, 1);
            check_same(run_of(*source, in_backward, 2, {}, 1), behind);
            options.device = Device::kCpu;
            CHECK(run_of(*source, options, 1).losses[0] ==
                  doctest::Approx(behind.losses[0]).epsilon(1e-5));
        };
        TrainerOptions options, lomo;
        options.method = lomo.method = "full";
        options.optimizer = "sgd", lomo.optimizer = "lomo";
        check(options, lomo);
        options.optimizer = "adamw", options.method = "full:weights=bf16";
        options.most_norm = 0.5;
        TrainerOptions in_backward = options;
        in_backward.update_in_backward = true;
        check(options, in_backward);
    }

    TEST_CASE("cuda: training from a state has the bits of training that was not stopped") {
        const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
        const test::TempDir directory;
        const std::string state = directory / "state.safetensors";
        TrainerOptions options;
        options.device = Device::kCuda, options.method = "full";
        options.isa = best_isa(), options.pass.most_tokens = 24, options.passes = 2;
        const Text text(source->spec().vocab);
        const Batch batch = text.batch();
        std::vector<double> whole;
        {
            Team team(2);
            Trainer trainer(*source, options, team);
            for (int step = 0; step < 4; ++step) {
                whole.push_back(trainer.step({&batch, 1}, 0.01).loss.loss);
                if (step == 1) trainer.save(state, "notes");
            }
        }
        Team team(1);
        Trainer trainer(*source, options, team);
        CHECK(trainer.restore(state) == "notes");
        for (std::size_t step = 2; step < 4; ++step)
            CHECK(trainer.step({&batch, 1}, 0.01).loss.loss == whole[step]);
    }

    TEST_CASE("cuda: what is not trained there is refused in the plan") {
        const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
        const auto refused = [&](const char* hint, auto change) {
            TrainerOptions options;
            options.device = Device::kCuda;
            change(options);
            Plan plan;
            CHECK_THROWS_WITH_AS(Trainer::add_to_plan(plan, *source, options),
                                 doctest::Contains(hint), Error);
        };
        refused("drop parameters=disk", [](TrainerOptions& o) {
            o.offload = Offload::parse("parameters=disk", "test");
            o.method = "full", o.update_in_backward = true;
        });
        refused("--checkpoint-layers 1", [](TrainerOptions& o) {
            o.offload = Offload::parse("activations=disk", "test");
            o.pass.checkpoint_layers = 0;
        });
    }
}
