// SPDX-License-Identifier: Apache-2.0
// Importance collected from a model: against the first layer's input worked out by hand, and the
// same for every thread count, budget and grouping.
#include "calib/collector.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/cpu.h"
#include "tests/support/golden_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Collection {
    ImportanceMatrix matrix;
    std::uint64_t peak_bytes = 0, planned_bytes = 0;
};

Collection collect(const GoldenModel& golden, const CalibrationTexts& texts, int threads,
                   std::uint64_t weight_bytes, const CollectOptions& options) {
    Team team(threads);
    RunnerOptions runner_options;
    runner_options.isa = best_isa();
    runner_options.activations = Activations::kF32;
    runner_options.kv.context_tokens = 64;
    runner_options.weight_bytes = weight_bytes;
    auto source = ModelSource::open(golden.directory);
    std::int64_t longest = 0, most = 0;
    for (const auto& text : texts) {
        longest = std::max<std::int64_t>(longest, std::ssize(text));
        most += std::ssize(text);
    }
    if (options.group_tokens > 0) most = longest;
    Plan plan;
    Runner::add_to_plan(plan, *source, runner_options, longest, 1, 0);
    add_collection_to_plan(plan, *source, Device::kCpu, most, options.process_output);
    const auto before = Ledger::process().current_bytes(Tier::kRam);
    Ledger::process().reset_peaks();
    Runner runner(std::move(source), runner_options, team);
    Collection out;
    out.matrix = *collect_importance(runner, team, texts, options, {});
    out.peak_bytes = Ledger::process().peak_bytes(Tier::kRam) - before;
    out.planned_bytes = plan.total_bytes(Tier::kRam);
    return out;
}

CalibrationTexts texts_of(const GoldenModel& golden) {
    CalibrationTexts texts;
    for (const GoldenPrompt& prompt : golden.prompts) texts.emplace_back(prompt.tokens);
    return texts;
}

std::vector<float> rows_of(const ModelSource& source, const std::string& name) {
    const SourceTensor& tensor = *source.find(name);
    std::vector<float> out(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(tensor, 0, tensor.rows(), out.data(), scratch);
    return out;
}

void check_equal(const ImportanceMatrix& a, const ImportanceMatrix& b) {
    REQUIRE(a.entries.size() == b.entries.size());
    for (const auto& [name, entry] : a.entries) {
        CAPTURE(name);
        CHECK(entry.sums == b.entries.at(name).sums);
        CHECK(entry.counts == b.entries.at(name).counts);
    }
}

}  // namespace

TEST_CASE("collector: the first layer's sums are those of its normed embeddings") {
    for (const char* name : {"llama-untied", "gemma3"}) {
        CAPTURE(name);
        const GoldenModel& golden = golden_model(name);
        const auto source = ModelSource::open(golden.directory);
        const ModelSpec& spec = source->spec();
        const std::vector<float> table = rows_of(*source, "token_embd.weight");
        const std::vector<float> norm = rows_of(*source, "blk.0.attn_norm.weight");
        const auto hidden = static_cast<std::size_t>(spec.hidden);
        std::vector<double> want(hidden);
        std::int64_t tokens = 0;
        for (const auto& text : texts_of(golden)) {
            tokens += std::ssize(text);
            for (const std::int32_t token : text) {
                const float* row = table.data() + static_cast<std::size_t>(token) * hidden;
                double squares = 0;
                for (std::size_t c = 0; c < hidden; ++c)
                    squares += std::pow(double{row[c]} * spec.embedding_scale, 2);
                const double mean = squares / static_cast<double>(hidden) + spec.norm_epsilon;
                for (std::size_t c = 0; c < hidden; ++c)
                    want[c] +=
                        std::pow(double{row[c]} * spec.embedding_scale * double{norm[c]}, 2) / mean;
            }
        }
        const Collection got = collect(golden, texts_of(golden), 2, UINT64_MAX, {});
        for (const char* role : {"attn_q", "attn_k", "attn_v"}) {
            const ImportanceEntry& entry =
                got.matrix.entries.at("blk.0." + std::string(role) + ".weight");
            CHECK(entry.counts == std::vector<std::int64_t>{tokens});
            REQUIRE(entry.sums.size() == hidden);
            for (std::size_t c = 0; c < hidden; ++c)
                CHECK(double{entry.sums[c]} == doctest::Approx(want[c]).epsilon(1e-5));
        }
        // one entry for each matrix of the layers, none for embedding and head
        CHECK(got.matrix.entries.size() == static_cast<std::size_t>(7 * spec.layers));
        CHECK(got.peak_bytes == got.planned_bytes);
    }
}

TEST_CASE("collector: threads, budgets and groups of texts change nothing") {
    const GoldenModel& golden = golden_model("gemma3");
    const CalibrationTexts texts = texts_of(golden);
    const Collection all = collect(golden, texts, 1, UINT64_MAX, {});
    for (const int threads : {1, 3}) {
        for (const std::uint64_t budget : {UINT64_MAX, std::uint64_t{0}}) {
            for (const std::int64_t group : {0, 1}) {
                const Collection other =
                    collect(golden, texts, threads, budget, {.group_tokens = group});
                check_equal(other.matrix, all.matrix);
                CHECK(other.peak_bytes == other.planned_bytes);
            }
        }
    }
}

TEST_CASE("collector: the head's input is collected if asked for, where there is a head") {
    const GoldenModel& untied = golden_model("llama-untied");
    const Collection head =
        collect(untied, texts_of(untied), 1, UINT64_MAX, {.process_output = true});
    const ImportanceEntry& entry = head.matrix.entries.at("output.weight");
    CHECK(entry.counts == head.matrix.entries.at("blk.0.attn_q.weight").counts);
    CHECK(unusable_sums(entry) == 0);
    CHECK(entry.sums.front() > 0);
    const GoldenModel& tied = golden_model("llama-tied");
    const Collection none = collect(tied, texts_of(tied), 1, UINT64_MAX, {.process_output = true});
    CHECK(none.matrix.entries.count("output.weight") == 0);
    CHECK(none.matrix.entries.count("token_embd.weight") == 0);
}

TEST_CASE("collector: half the texts and the other half add up to all") {
    const GoldenModel& golden = golden_model("llama-tied");
    const CalibrationTexts texts = texts_of(golden);
    const auto middle = texts.begin() + 1;
    Collection first = collect(golden, {texts.begin(), middle}, 1, UINT64_MAX, {});
    const Collection second = collect(golden, {middle, texts.end()}, 1, UINT64_MAX, {});
    const Collection all = collect(golden, texts, 1, UINT64_MAX, {});
    first.matrix.merge(second.matrix, "second");
    for (const auto& [name, entry] : all.matrix.entries) {
        const ImportanceEntry& sum = first.matrix.entries.at(name);
        CHECK(sum.counts == entry.counts);
        for (std::size_t i = 0; i < entry.sums.size(); ++i)
            CHECK(sum.sums[i] == doctest::Approx(entry.sums[i]).epsilon(1e-6));
    }
}
