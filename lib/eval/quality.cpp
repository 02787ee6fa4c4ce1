// SPDX-License-Identifier: Apache-2.0
#include "eval/quality.h"

#include <algorithm>
#include <numbers>

#include "core/error.h"
#include "core/figures.h"
#include "text/tokenizer.h"

namespace thimble::eval {

Quality measure_quality(Runner& changed, Runner& original, const Windows& windows,
                        const Progress& progress) {
    const std::int64_t rows = rows_per_piece(changed.spec(), RunnerOptions(), windows.rows(), true);
    WindowScorer scorer(changed, &original, windows, {.piece_rows = rows});
    ScoreSums sums(windows.count() * windows.rows(), true);
    for (std::int64_t w = 0; w < windows.count(); ++w) {
        const auto scores = scorer.score(w, {});
        for (const RowScore& score : *scores) sums.add(score);
        if (!progress("quality", w + 1, windows.count())) throw Stopped();
    }
    Quality quality;
    quality.after = sums.perplexity();
    quality.divergence = sums.divergence();
    return quality;
}

Estimate measure_bits(Runner& model, const std::string& text, std::int64_t context,
                      const Progress& progress) {
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(model.source().file());
    std::optional<Token> bos;
    std::vector<Token> tokens = window_tokens(*tokenizer, text, bos);
    const std::int64_t length = std::min(context, std::ssize(tokens));
    const Windows windows(std::move(tokens), length, 0, bos, "the text to check on");
    WindowScorer scorer(model, nullptr, windows, {.piece_rows = windows.rows()});
    ScoreSums sums(windows.count() * windows.rows(), false);
    double bytes = 0;
    for (std::int64_t w = 0; w < windows.count(); ++w) {
        for (std::int64_t r = 0; r < windows.rows(); ++r) {
            const Token next = windows.target(w, windows.first_row() + r);
            bytes += static_cast<double>(tokenizer->piece(next).size());
        }
        const auto scores = scorer.score(w, {});
        for (const RowScore& score : *scores) sums.add(score);
        if (!progress("quality", w + 1, windows.count())) throw Stopped();
    }
    const PerplexityFigures figures = sums.perplexity();
    const double to_bits =
        static_cast<double>(figures.tokens) / std::numbers::ln2 / std::max(bytes, 1.0);
    return {figures.nll.value * to_bits, figures.nll.standard_error * to_bits};
}

void check_divergence(const Quality& quality, double most, const char* hint) {
    const double kld = quality.divergence.kld.value;
    if (most <= 0 || kld <= most) return;
    throw Error(Exit::kGateFailed, "--max-kld",
                "the mean divergence is " + fixed(kld, 4) + ", more than " + fixed(most, 4) +
                    ": nothing is written",
                hint);
}

void add_quality_to_plan(Plan& plan, const ModelSpec& spec, const RunnerOptions& options,
                         std::int64_t windows, std::int64_t context) {
    const std::int64_t rows = scored_rows(context, Scored::kSecondHalf);
    WindowScorer::add_to_plan(plan, spec, options.device, rows,
                              rows_per_piece(spec, options, rows, true), true);
    plan.at(Tier::kRam, Purpose::kLogits) += ScoreSums::charged_bytes(windows * rows, true);
}

Json Quality::json() const {
    Json out = Json::object();
    const auto set = [&](const char* name, const Estimate& e) {
        out.set(name, e.value);
        out.set(std::string(name) + "_stderr", e.standard_error);
    };
    if (bits_before) {
        set("bits_per_byte_before", *bits_before);
        set("bits_per_byte", *bits_after);
        return out;
    }
    set("ppl_before", divergence.reference_perplexity);
    set("ppl", after.perplexity);
    set("ppl_ratio", divergence.perplexity_ratio);
    set("kld_mean", divergence.kld);
    out.set("kld_median", divergence.kld_median);
    out.set("kld_p99", divergence.kld_p99);
    set("same_top", divergence.same_top);
    out.set("tokens", after.tokens);
    return out;
}

std::string Quality::text() const {
    const auto with_error = [](const Estimate& e, int decimals) {
        return fixed(e.value, decimals) + " +- " + fixed(e.standard_error, decimals);
    };
    if (bits_before) {
        return "bits per byte " + with_error(*bits_before, 4) + " -> " + with_error(*bits_after, 4);
    }
    return "perplexity " + with_error(divergence.reference_perplexity, 3) + " -> " +
           with_error(after.perplexity, 3) + ", KLD " + with_error(divergence.kld, 4) +
           ", same top token " + fixed(100 * divergence.same_top.value, 1) + " % (" +
           std::to_string(after.tokens) + " tokens)";
}

}  // namespace thimble::eval
