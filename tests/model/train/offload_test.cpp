// SPDX-License-Identifier: Apache-2.0
// Training with state and activations on disk against training in memory.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/cpu.h"
#include "core/error.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"
#include "train/trainer.h"

using namespace thimble;
using namespace thimble::train;

namespace {

// Two documents; steps see them in turns.
struct Text {
    explicit Text(std::int64_t vocab) {
        for (std::int32_t i = 0; i < 40; ++i) {
            tokens.push_back(static_cast<std::int32_t>((i * 7 + 3) % vocab));
            targets.push_back(static_cast<std::int32_t>((i * 7 + 10) % vocab));
        }
    }
    [[nodiscard]] Batch batch(std::int64_t step) const {
        const std::size_t count = step % 2 == 0 ? 40 : 24;  // the shorter one is all of its batch
        return {std::span(tokens).first(count), std::span(targets).first(count),
                step % 2 == 0 ? std::span(both) : std::span(one)};
    }
    std::vector<std::int32_t> tokens, targets;
    std::vector<std::int64_t> both = {24, 16}, one = {24};
};

struct Run {
    std::vector<double> losses, norms;
    std::vector<std::vector<float>> values;
};

Run run_of(const ModelSource& source, TrainerOptions options, int steps, const char* state = "",
           int threads = 2, double rate = 1e-2) {
    Team team(threads);
    options.isa = best_isa();
    options.threads = threads;
    options.pass.most_tokens = 40;
    Plan plan;
    Trainer::add_to_plan(plan, source, options);
    Ledger& ledger = Ledger::process();
    const std::uint64_t ram = ledger.current_bytes(Tier::kRam);
    const std::uint64_t disk = ledger.current_bytes(Tier::kDisk);
    Trainer trainer(source, options, team);
    CHECK(ledger.current_bytes(Tier::kRam) - ram == plan.total_bytes(Tier::kRam));
    CHECK(ledger.current_bytes(Tier::kDisk) - disk == plan.total_bytes(Tier::kDisk));
    const Text text(source.spec().vocab);
    Run run;
    if (*state != 0 && trainer.steps() == 0) (void)trainer.restore(state);
    for (int step = 0; step < steps; ++step) {
        const Batch batch = text.batch(trainer.steps());
        const StepResult result = trainer.step({&batch, 1}, rate);
        run.losses.push_back(result.loss.loss);
        run.norms.push_back(result.norm);
    }
    HeldValues held(trainer.parameters());
    for (std::size_t i = 0; i < trainer.parameters().size(); ++i) {
        const Parameter& p = held.hold(i);
        run.values.emplace_back(static_cast<std::size_t>(p.info.elements()));
        p.read(0, run.values.back());
    }
    return run;
}

void check_same(const Run& a, const Run& b) {
    CHECK(a.losses == b.losses);
    CHECK(a.norms == b.norms);
    REQUIRE(a.values.size() == b.values.size());
    std::size_t differ = 0;
    for (std::size_t i = 0; i < a.values.size(); ++i) {
        if (std::memcmp(a.values[i].data(), b.values[i].data(),
                        a.values[i].size() * sizeof(float)) != 0)
            ++differ;
    }
    CHECK(differ == 0);  // parameters
}

}  // namespace

TEST_CASE("training with state and activations on disk has the bits of training in memory") {
    for (const std::string name : {"llama-tied", "gemma3"}) {
        const auto source = ModelSource::open(test::golden_model(name).directory);
        for (const std::int64_t checkpoints : {0, 1, 2}) {
            CAPTURE(name);
            CAPTURE(checkpoints);
            const test::TempDir directory;
            TrainerOptions options;
            options.method = name == "gemma3" ? "lora:rank=4" : "full";
            options.pass.checkpoint_layers = checkpoints;
            const Run memory = run_of(*source, options, 4);
            CHECK(memory.losses[0] != memory.losses[2]);
            options.offload = Offload::parse("optimizer=disk,activations=disk", "test");
            options.offload_directory = directory.path();
            check_same(memory, run_of(*source, options, 4));
        }
    }
}

TEST_CASE("parameters on disk, updated in backward, have the bits of those in memory") {
    for (const std::string name : {"llama-tied", "llama-untied", "gemma3"}) {
        const auto source = ModelSource::open(test::golden_model(name).directory);
        for (const std::string optimizer : {"adamw", "lomo"}) {
            for (const std::int64_t checkpoints : {0, 2}) {
                CAPTURE(name);
                CAPTURE(optimizer);
                CAPTURE(checkpoints);
                const test::TempDir directory;
                TrainerOptions options;
                options.method = "full", options.optimizer = optimizer;
                options.pass.checkpoint_layers = checkpoints;
                const Run memory = run_of(*source, options, 4);
                options.update_in_backward = true;
                check_same(memory, run_of(*source, options, 4));
                options.offload_directory = directory.path();
                options.offload = Offload::parse("parameters=disk", "test");
                check_same(memory, run_of(*source, options, 4));
                options.offload =
                    Offload::parse("parameters=disk,optimizer=disk,activations=disk", "test");
                check_same(memory, run_of(*source, options, 4));
            }
        }
    }
}

TEST_CASE("weights in bf16 have the same bits wherever they and the state lie, and from a file") {
    const auto source = ModelSource::open(test::golden_model("gemma3").directory);
    const test::TempDir directory;
    const std::string state = directory / "state.safetensors";
    for (const std::string optimizer : {"adamw", "adamw8bit:min-elements=0", "lomo"}) {
        CAPTURE(optimizer);
        TrainerOptions options;
        options.method = "full:weights=bf16", options.optimizer = optimizer;
        const Run memory = run_of(*source, options, 4);
        check_same(memory, run_of(*source, options, 4, "", 1));
        check_same(memory, run_of(*source, options, 4, "", 3));
        TrainerOptions other = options;
        other.seed = 1;
        CHECK(run_of(*source, other, 4).values != memory.values);
        for (const std::vector<float>& values : memory.values) {
            if (values.size() <= 64) continue;  // a vector
            CHECK(std::all_of(values.begin(), values.end(), [](float x) {
                return (std::bit_cast<std::uint32_t>(x) & 0xffffU) == 0;
            }));
        }
        other = options;
        other.update_in_backward = true;
        other.offload_directory = directory.path();
        other.offload = Offload::parse("parameters=disk,optimizer=disk,activations=disk", "test");
        check_same(memory, run_of(*source, other, 4));
        {
            Team team(2);
            options.isa = best_isa(), options.pass.most_tokens = 40;
            Trainer trainer(*source, options, team);
            const Text text(source->spec().vocab);
            for (int step = 0; step < 2; ++step) {
                const Batch batch = text.batch(step);
                (void)trainer.step({&batch, 1}, 1e-2);
            }
            trainer.save(state, "");
        }
        check_same({{}, {}, memory.values},
                   {{}, {}, run_of(*source, other, 2, state.c_str()).values});
    }
}

TEST_CASE("weights in bf16 take half the memory and learn in steps far below their last place") {
    const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
    TrainerOptions options;
    options.threads = 2, options.pass.most_tokens = 40;
    const auto weights = [&](const char* method) {
        options.method = method;
        Plan plan;
        Trainer::add_to_plan(plan, *source, options);
        return static_cast<double>(plan.at(Tier::kRam, Purpose::kWeights));
    };
    CHECK(weights("full:weights=bf16") < 0.6 * weights("full"));
    // About a fifth of the last place of a weight of 0.1: rounded to the nearest, none would move.
    constexpr double kRate = 1e-4;
    const auto fall = [&](const char* method) {
        options.method = method;
        const Run run = run_of(*source, options, 60, "", 2, kRate);
        return run.losses[0] - run.losses[58];
    };
    const double wide = fall("full"), narrow = fall("full:weights=bf16");
    CHECK(wide > 0);
    CHECK(narrow > 0.8 * wide);
    CHECK(narrow < 1.2 * wide);
}

TEST_CASE("gradients that are used up in backward are clipped by the norm of all") {
    for (const std::string name : {"llama-tied", "gemma3"}) {
        CAPTURE(name);
        const auto source = ModelSource::open(test::golden_model(name).directory);
        const test::TempDir directory;
        TrainerOptions options;
        options.method = "full", options.optimizer = "sgd";
        const Run free = run_of(*source, options, 3);
        options.most_norm = 0.25 * free.norms[0];
        const Run clipped = run_of(*source, options, 3);
        CHECK(clipped.norms[0] == free.norms[0]);
        CHECK(clipped.losses[2] != free.losses[2]);
        options.update_in_backward = true;
        check_same(clipped, run_of(*source, options, 3));
        options.offload = Offload::parse("parameters=disk,activations=disk", "test");
        options.offload_directory = directory.path();
        check_same(clipped, run_of(*source, options, 3));
        // LOMO is gradient descent.
        TrainerOptions lomo;
        lomo.method = "full", lomo.optimizer = "lomo", lomo.most_norm = options.most_norm;
        check_same(clipped, run_of(*source, lomo, 3));
        lomo.most_norm = 0;
        check_same(free, run_of(*source, lomo, 3));
    }
}

TEST_CASE("a loss or norm that is not finite is refused before a weight changes") {
    const auto source = ModelSource::open(test::golden_model("llama-untied").directory);
    for (const double most_norm : {0.0, 1.0}) {
        for (const bool in_loss : {true, false}) {
            if (!in_loss && most_norm == 0) continue;  // then nobody knows before
            CAPTURE(most_norm);
            CAPTURE(in_loss);
            Team team(2);
            TrainerOptions options;
            options.method = "full", options.optimizer = "lomo", options.most_norm = most_norm;
            options.isa = best_isa(), options.pass.most_tokens = 40;
            Trainer trainer(*source, options, team);
            ParameterSet& parameters = trainer.parameters();
            const Text text(source->spec().vocab);
            const Batch batch = text.batch(0);
            // Either a token's row that is not finite, or a product of 0 whose other side is so
            // large that the gradient overflows where the loss does not.
            for (std::size_t i = 0; i < parameters.size(); ++i) {
                const Parameter& p = parameters[i];
                const std::int64_t n = p.info.elements();
                if (in_loss && p.info.is_embedding)
                    p.values[batch.tokens[3] * p.info.shape.cols] =
                        std::numeric_limits<float>::infinity();
                if (in_loss) continue;
                if (p.name == "blk.0.ffn_down.weight") std::fill_n(p.values, n, 0.0f);
                if (p.name == "blk.0.ffn_norm.weight") std::fill_n(p.values, n, 1e18f);
                for (std::int64_t e = 0; e < n && p.name == "output.weight"; ++e)
                    p.values[e] *= 1e7f;
            }
            const auto all = [&] {
                std::vector<std::vector<float>> values;
                for (const Parameter& p : parameters.items())
                    values.emplace_back(p.values, p.values + p.info.elements());
                return values;
            };
            const auto before = all();
            CHECK_THROWS_WITH_AS((void)trainer.step({&batch, 1}, 1e-2),
                                 doctest::Contains(in_loss ? "the loss is not a finite number"
                                                           : "'blk.0.ffn_down.weight' is not"),
                                 Error);
            check_same({{}, {}, before}, {{}, {}, all()});
            CHECK(trainer.steps() == 0);
        }
    }
}

TEST_CASE("a checkpoint of a run in memory goes on with state on disk, and back") {
    const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
    const test::TempDir directory;
    const std::string state = directory / "state.safetensors";
    TrainerOptions memory;
    memory.method = "full";
    memory.update_in_backward = true;
    TrainerOptions disk = memory;
    disk.offload = Offload::parse("optimizer=disk,parameters=disk", "test");
    disk.offload_directory = directory.path();
    Run whole = run_of(*source, memory, 5);
    for (const bool first_on_disk : {false, true}) {
        {
            Team team(1);
            TrainerOptions options = first_on_disk ? disk : memory;
            options.isa = best_isa();
            options.pass.most_tokens = 40;
            Trainer trainer(*source, options, team);
            const Text text(source->spec().vocab);
            for (int step = 0; step < 2; ++step) {
                const Batch batch = text.batch(step);
                (void)trainer.step({&batch, 1}, 1e-2);
            }
            trainer.save(state, "notes");
        }
        const Run rest = run_of(*source, first_on_disk ? memory : disk, 3, state.c_str());
        CHECK(std::equal(rest.losses.begin(), rest.losses.end(), whole.losses.begin() + 2));
        check_same({{}, {}, rest.values}, {{}, {}, whole.values});
    }
}

TEST_CASE("what cannot be offloaded is refused with the nearest name") {
    CHECK_THROWS_WITH_AS((void)Offload::parse("optimiser=disk", "--offload"),
                         doctest::Contains("optimizer"), Error);
    CHECK_THROWS_AS((void)Offload::parse("optimizer=tape", "--offload"), Error);

    const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
    const auto refused = [&](const TrainerOptions& options, const char* hint) {
        Plan plan;
        CHECK_THROWS_WITH_AS(Trainer::add_to_plan(plan, *source, options), doctest::Contains(hint),
                             Error);
    };
    TrainerOptions options;
    options.method = "full";
    options.offload = Offload::parse("parameters=disk", "--offload");
    refused(options, "--update-in-backward");
    options.update_in_backward = true;
    options.method = "lora";
    refused(options, "--method full");
    options.update_in_backward = false;
    refused(options, "drop parameters=disk");
}
