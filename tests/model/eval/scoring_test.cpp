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

Scores run(const Pair& pair, bool with_reference, int threads, std::int64_t step,
           std::int64_t piece) {
    Team team(threads);
    Runner model(ModelSource::open(pair.model), options_for(step), team);
    Runner reference(ModelSource::open(pair.reference), options_for(step), team);
    const Windows windows = windows_of(model.spec().vocab);
    WindowScorer scorer(model, with_reference ? &reference : nullptr, windows.rows(), piece);
    ScoreSums sums(windows.count() * windows.rows(), with_reference);
    for (std::int64_t w = 0; w < windows.count(); ++w)
        for (const RowScore& score : scorer.score(windows, w)) sums.add(score);
    Scores out{sums.perplexity(), {}};
    if (with_reference) out.divergence = sums.divergence();
    return out;
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

TEST_CASE("eval scoring: the plan is what the ledger counts") {
    const Pair pair("gemma3");
    const std::int64_t piece = 4;
    const RunnerOptions options = options_for(512);
    Plan plan;
    {
        const auto model = ModelSource::open(pair.model);
        const auto reference = ModelSource::open(pair.reference);
        const Windows windows = windows_of(model->spec().vocab);
        Runner::add_to_plan(plan, *model, options, kContext - 1, 1, piece);
        Runner::add_to_plan(plan, *reference, options, kContext - 1, 1, piece);
        WindowScorer::add_to_plan(plan, model->spec(), options.device, windows.rows(), piece, true);
        plan.at(Tier::kRam, Purpose::kLogits) +=
            ScoreSums::charged_bytes(windows.count() * windows.rows(), true);
    }
    Ledger& ledger = Ledger::process();
    const std::uint64_t before = ledger.current_bytes(Tier::kRam, Purpose::kLogits);
    ledger.reset_peaks();
    (void)run(pair, true, 2, 512, piece);
    CHECK(ledger.peak_bytes(Tier::kRam, Purpose::kLogits) - before ==
          plan.at(Tier::kRam, Purpose::kLogits));
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
