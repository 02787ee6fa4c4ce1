// SPDX-License-Identifier: Apache-2.0
// Scoring with runners of tiny models: against figures made from all logits of each window at once,
// for any thread count, step and piece, with the ledger as planned.
#include <doctest/doctest.h>

#include <cmath>

#include "core/error.h"
#include "eval/scoring.h"
#include "eval/speed.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

constexpr std::int64_t kContext = 24;

RunnerOptions options_for(std::int64_t step_tokens) {
    RunnerOptions options;
    options.step_tokens = step_tokens;
    options.kv.context_tokens = kContext;
    return options;
}

Windows windows_of(std::int64_t vocab) {
    std::vector<Token> tokens;
    for (std::int64_t i = 0; i < 3 * kContext + 5; ++i)
        tokens.push_back(static_cast<Token>((i * i + 7 * i + 3) % vocab));
    return {std::move(tokens), kContext, 0, Token{1}, "text"};
}

struct Pair {
    test::TempDir scratch;
    std::string model, reference;
    explicit Pair(const std::string& name)
        : model(scratch / "q4.gguf"), reference(test::golden_model(name).directory) {
        test::ModelCopy::as_gguf(reference, "q4_0").write_gguf(model);
    }
};

struct Scores {
    PerplexityFigures perplexity;
    std::optional<DivergenceFigures> divergence;
};

Scores run(const Pair& pair, bool with_reference, int threads, const RunnerOptions& options,
           const ScoringSteps& steps) {
    Team team(threads);
    Runner model(ModelSource::open(pair.model), options, team);
    Runner reference(ModelSource::open(pair.reference), options, team);
    const Windows windows = windows_of(model.spec().vocab);
    WindowScorer scorer(model, with_reference ? &reference : nullptr, windows, steps);
    ScoreSums sums(windows.count() * windows.rows(), with_reference);
    for (std::int64_t w = 0; w < windows.count(); ++w) {
        const auto scores = scorer.score(w, {});
        REQUIRE(scores);
        for (const RowScore& score : *scores) sums.add(score);
    }
    Scores out{sums.perplexity(), {}};
    if (with_reference) out.divergence = sums.divergence();
    return out;
}
Scores run(const Pair& pair, bool with_reference, int threads, std::int64_t step,
           std::int64_t piece) {
    return run(pair, with_reference, threads, options_for(step), {.piece_rows = piece});
}

bool same_bits(const Scores& a, const Scores& b) {
    return a.perplexity.nll.value == b.perplexity.nll.value &&
           a.perplexity.nll.standard_error == b.perplexity.nll.standard_error &&
           a.divergence.has_value() == b.divergence.has_value() &&
           (!a.divergence || (a.divergence->kld.value == b.divergence->kld.value &&
                              a.divergence->kld_p99 == b.divergence->kld_p99 &&
                              a.divergence->rms_delta_p.value == b.divergence->rms_delta_p.value));
}

}  // namespace

TEST_CASE("eval scoring: equals figures from all logits of each window") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        CAPTURE(name);
        const Pair pair(name);
        Team team(1);
        Runner model(ModelSource::open(pair.model), options_for(512), team);
        Runner reference(ModelSource::open(pair.reference), options_for(512), team);
        const auto vocab = static_cast<std::size_t>(model.spec().vocab);
        const Windows windows = windows_of(model.spec().vocab);
        double nll = 0, kld = 0, count = 0;
        for (std::int64_t w = 0; w < windows.count(); ++w) {
            const auto mine = test::all_logits(model, windows.inputs(w));
            const auto theirs = test::all_logits(reference, windows.inputs(w));
            for (std::int64_t r = kContext / 2; r < kContext - 1; ++r) {
                const auto row = static_cast<std::size_t>(r) * vocab;
                double sum = 0, sum_ref = 0, divergence = 0;
                for (std::size_t i = 0; i < vocab; ++i)
                    sum += std::exp(mine[row + i]), sum_ref += std::exp(theirs[row + i]);
                for (std::size_t i = 0; i < vocab; ++i)
                    divergence +=
                        std::exp(theirs[row + i]) / sum_ref *
                        (theirs[row + i] - std::log(sum_ref) - (mine[row + i] - std::log(sum)));
                const auto target = static_cast<std::size_t>(windows.target(w, r));
                nll += std::log(sum) - mine[row + target];
                kld += divergence;
                ++count;
            }
        }
        const Scores scores = run(pair, true, 1, 512, 4);
        CHECK(scores.perplexity.tokens == 33);
        CHECK(scores.perplexity.nll.value == doctest::Approx(nll / count).epsilon(1e-12));
        CHECK(scores.divergence->kld.value == doctest::Approx(kld / count).epsilon(1e-9));
        CHECK(scores.divergence->kld.value > 1e-6);
    }
}

TEST_CASE("eval scoring: threads, steps and pieces change no bit") {
    const Pair pair("gemma3");
    const Scores wanted = run(pair, true, 1, 512, 11);
    CHECK(same_bits(run(pair, true, 2, 512, 11), wanted));
    CHECK(same_bits(run(pair, true, 2, 5, 3), wanted));
    CHECK(same_bits(run(pair, true, 3, 7, 1), wanted));
    const Scores alone = run(pair, false, 2, 512, 11);
    CHECK(alone.perplexity.nll.value == wanted.perplexity.nll.value);
    CHECK_FALSE(alone.divergence.has_value());
}

TEST_CASE("eval scoring: a model against itself has no divergence") {
    Pair pair("llama-untied");
    pair.model = pair.reference;
    const Scores scores = run(pair, true, 2, 512, 4);
    CHECK(scores.divergence->kld.value == 0);
    CHECK(scores.divergence->kld_max == 0);
    CHECK(scores.divergence->same_top.value == 1);
    CHECK(scores.divergence->perplexity_ratio.value == 1);
    CHECK(scores.divergence->rms_delta_p.value == 0);
}

TEST_CASE("eval scoring: groups of windows, layer by layer, change no bit") {
    const Pair pair("gemma3");
    for (const char* policy : {"full", "streaming:sink=2,budget=8"}) {
        RunnerOptions options = options_for(512);
        options.kv.policy = policy;
        const Scores wanted = run(pair, true, 1, options, {.piece_rows = 11});
        const Scores alone = run(pair, false, 1, options, {.piece_rows = 11});
        for (const std::int64_t group : {1, 2, 3, 7}) {
            for (const std::uint64_t budget : {UINT64_MAX, std::uint64_t{0}}) {
                CAPTURE(group);
                options.weight_bytes = budget;
                options.step_tokens = group == 2 ? 5 : 512;
                CHECK(same_bits(run(pair, true, 2, options, {4, group}), wanted));
                CHECK(same_bits(run(pair, false, 2, options, {11, group}), alone));
            }
        }
    }
}

TEST_CASE("eval scoring: a model whose layers are streamed is read once per pass") {
    const Pair pair("gemma3");
    Team team(1);
    RunnerOptions options = options_for(512);
    options.weight_bytes = 0;
    const auto source = ModelSource::open(pair.model);
    const std::int64_t layers = source->spec().layers;
    const StorePlan plan = Runner::store_plan(*source, options);
    REQUIRE(plan.streamed_layers == layers);
    REQUIRE(layers > 2);
    for (const Scored scored : {Scored::kSecondHalf, Scored::kAll}) {
        for (const ScoringSteps& steps :
             {ScoringSteps{11, 0}, ScoringSteps{4, 0}, ScoringSteps{1, 0}, ScoringSteps{4, 1},
              ScoringSteps{4, 2}, ScoringSteps{4, 3}, ScoringSteps{4, 9}}) {
            for (const std::int64_t step : {5, 512}) {
                CAPTURE(steps.piece_rows);
                CAPTURE(steps.group_windows);
                options.step_tokens = step;
                Runner model(ModelSource::open(pair.model), options, team);
                const Windows windows(std::vector<Token>(3 * kContext, 1), kContext, 0, {}, "text",
                                      scored);
                WindowScorer scorer(model, nullptr, windows, steps);
                for (std::int64_t w = 0; w < windows.count(); ++w)
                    REQUIRE(scorer.score(w, {}).has_value());
                const auto passes = static_cast<std::uint64_t>(
                    scoring_passes(windows.count(), kContext, scored, step, steps));
                // And one layer is read ahead.
                CHECK(model.streamed_bytes() >= passes * plan.streamed_bytes);
                CHECK(model.streamed_bytes() < (passes + 1) * plan.streamed_bytes);
            }
        }
    }
}

TEST_CASE("eval scoring: a group can be stopped between two layers, and begun again") {
    const Pair pair("llama-tied");
    Team team(1);
    Runner model(ModelSource::open(pair.model), options_for(512), team);
    Runner reference(ModelSource::open(pair.reference), options_for(512), team);
    const Windows windows = windows_of(model.spec().vocab);
    WindowScorer scorer(model, &reference, windows, {4, 2});
    const std::int64_t layers = model.spec().layers + reference.spec().layers;
    std::vector<std::int64_t> seen;
    const auto until = [&](std::int64_t last) {
        return [&seen, last](std::int64_t done, std::int64_t) {
            seen.push_back(done);
            return done < last;
        };
    };
    for (std::int64_t stop = 1; stop <= layers; ++stop) {
        seen.clear();
        CHECK_FALSE(scorer.score(1, until(stop)));
        CHECK(std::ssize(seen) == stop);
        CHECK(seen.back() == stop);
    }
    const auto begun = scorer.score(1, until(layers + 1));
    REQUIRE(begun);
    const std::vector<RowScore> swept(begun->begin(), begun->end());
    seen.clear();
    CHECK(scorer.score(2, until(0)));  // of the same group: no layer is looked at
    CHECK(seen.empty());
    WindowScorer whole(model, &reference, windows, {.piece_rows = 11});
    const auto wanted = whole.score(1, {});
    REQUIRE(wanted);
    for (std::size_t r = 0; r < swept.size(); ++r) {
        CHECK(swept[r].nll == (*wanted)[r].nll);
        CHECK(swept[r].kld == (*wanted)[r].kld);
    }
}

TEST_CASE("eval scoring: the plan is what the ledger counts") {
    const Pair pair("gemma3");
    const RunnerOptions options = options_for(512);
    for (const ScoringSteps& steps : {ScoringSteps{4, 0}, ScoringSteps{4, 2}, ScoringSteps{4, 9}}) {
        Plan plan;
        {
            const auto model = ModelSource::open(pair.model);
            const auto reference = ModelSource::open(pair.reference);
            const Windows windows = windows_of(model->spec().vocab);
            for (const ModelSource* source : {model.get(), reference.get()}) {
                Runner::add_to_plan(plan, *source, options, kContext - 1, 1, steps.piece_rows);
                plan.at(Tier::kRam, Purpose::kActivations) += WindowScorer::state_bytes(
                    source->spec(), options.device,
                    std::min(steps.group_windows, windows.count()) * (kContext - 1));
            }
            WindowScorer::add_to_plan(plan, model->spec(), options.device, windows.rows(),
                                      steps.piece_rows, true);
            plan.at(Tier::kRam, Purpose::kLogits) +=
                ScoreSums::charged_bytes(windows.count() * windows.rows(), true);
        }
        Ledger& ledger = Ledger::process();
        const std::uint64_t logits = ledger.current_bytes(Tier::kRam, Purpose::kLogits),
                            states = ledger.current_bytes(Tier::kRam, Purpose::kActivations);
        ledger.reset_peaks();
        (void)run(pair, true, 2, options, steps);
        CHECK(ledger.peak_bytes(Tier::kRam, Purpose::kLogits) - logits ==
              plan.at(Tier::kRam, Purpose::kLogits));
        CHECK(ledger.peak_bytes(Tier::kRam, Purpose::kActivations) - states ==
              plan.at(Tier::kRam, Purpose::kActivations));
    }
}

TEST_CASE("eval speed: measures both, or what is asked for") {
    const Pair pair("llama-tied");
    Team team(2);
    Runner model(ModelSource::open(pair.model), options_for(512), team);
    const Speed speed =
        measure_speed(model, {.prompt_tokens = 16, .decode_tokens = 8, .repeats = 3});
    CHECK(speed.prefill_tokens_per_second > 0);
    CHECK(speed.decode_tokens_per_second > 0);
    CHECK(speed.bytes_per_token == model.bytes_per_token(4));
    const Speed decode =
        measure_speed(model, {.prompt_tokens = 0, .decode_tokens = 8, .repeats = 1});
    CHECK(decode.prefill_tokens_per_second == 0);
    CHECK(decode.decode_tokens_per_second > 0);
}
