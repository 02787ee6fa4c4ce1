// SPDX-License-Identifier: Apache-2.0
#include "eval/kv_sweep.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "eval/metrics.h"
#include "kv/chain.h"

namespace thimble::eval {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

struct HasBudget final : OptionVisitor {
    bool found = false;
    void see(const OptionInfo& info) { found |= std::string_view(info.name) == "budget"; }
    void option(const OptionInfo& info, bool&) override { see(info); }
    void option(const OptionInfo& info, std::int64_t&) override { see(info); }
    void option(const OptionInfo& info, double&) override { see(info); }
    void option(const OptionInfo& info, std::string&) override { see(info); }
    void option(const OptionInfo& info, std::vector<std::string>&) override { see(info); }
    void group(std::string_view) override {}
};

}  // namespace

// What the rows of one policy and budget add up to.
struct KvSweep::Sums {
    explicit Sums(std::size_t parts) : part_kld(parts), part_nll(parts) {}
    Moments kld, nll, same_top;
    std::vector<Moments> part_kld, part_nll;
    double decode_seconds = 0, prompt_seconds = 0;
    std::int64_t decoded = 0;
    std::uint64_t kv_bytes = 0;
    NeedleHits needles;
};

KvSweep::KvSweep(const KvSweepOptions& options, std::vector<std::vector<Token>> texts,
                 const KvNeedles* needles, MakeRunner make_runner, Runner::Encode encode)
    : options_(options),
      texts_(std::move(texts)),
      needles_(needles),
      make_runner_(std::move(make_runner)),
      encode_(std::move(encode)) {}

void KvSweep::check(const KvSweepOptions& options) {
    for (const std::string& budget : options.budgets) (void)KvBudget::parse(budget, "--budget");
    for (const std::string& policy : options.policies)
        (void)KvChain::parse(with_budget(policy, options.prompt_tokens), "--policy");
}

std::string KvSweep::with_budget(const std::string& policy, std::int64_t tokens) {
    std::string out;
    bool given = false;
    for (std::string_view rest = policy;;) {
        const std::size_t plus = rest.find('+');
        const std::string link(rest.substr(0, plus));
        const std::size_t colon = link.find(':');
        HasBudget visitor;
        kv_policies().get(link.substr(0, colon), "--policy").visit_options(visitor);
        out += link;
        if (visitor.found && !given) {
            out += colon == std::string::npos ? ":" : ",";
            out += "budget=" + std::to_string(tokens);
            given = true;
        }
        if (plus == std::string_view::npos) break;
        out += '+';
        rest = rest.substr(plus + 1);
    }
    return out;
}

std::uint64_t KvSweep::reference_bytes(const KvSweepOptions& options, std::int64_t vocab) {
    return Buffer::charged_bytes(
        static_cast<std::size_t>(options.texts * options.answer_tokens * vocab) * sizeof(float));
}

std::int64_t KvSweep::budget_tokens(std::size_t budget) const {
    return KvBudget::parse(options_.budgets[budget], "--budget")
        .tokens(options_.prompt_tokens,
                full_bytes_ / static_cast<std::uint64_t>(options_.prompt_tokens));
}

std::span<const Token> KvSweep::prompt(std::size_t text) const {
    return std::span(texts_[text]).first(static_cast<std::size_t>(options_.prompt_tokens));
}

// Feeds the answer token by token after the prompt, whose own last row is not counted: no policy
// has changed it.
void KvSweep::go_on(Runner& runner, SeqId seq, std::size_t text, Sums& sums) const {
    sums.kv_bytes = std::max(sums.kv_bytes, runner.kv().bytes(seq));
    const std::vector<Token>& tokens = texts_[text];
    const auto prompt = static_cast<std::size_t>(options_.prompt_tokens);
    for (std::int64_t i = 0; i + 1 < options_.answer_tokens; ++i) {
        const Token target = tokens[prompt + static_cast<std::size_t>(i) + 1];
        const View expected = {
            const_cast<std::byte*>(reference_.data()) +
                static_cast<std::size_t>(
                    (static_cast<std::int64_t>(text) * options_.answer_tokens + i) * vocab_) *
                    sizeof(float),
            DType::kF32, 1, vocab_, vocab_};
        const auto start = Clock::now();
        double scoring = 0;
        runner.forward(seq, {&tokens[prompt + static_cast<std::size_t>(i)], 1}, 1,
                       [&](std::int64_t, View logits) {
                           const auto begin = Clock::now();
                           const RowScore row = score_row(logits, expected, target);
                           const auto part = static_cast<std::size_t>(i * options_.buckets /
                                                                      options_.answer_tokens);
                           sums.kld.add(row.kld), sums.nll.add(row.nll);
                           sums.same_top.add(row.same_top ? 1 : 0);
                           sums.part_kld[part].add(row.kld), sums.part_nll[part].add(row.nll);
                           scoring = since(begin);
                       });
        sums.decode_seconds += since(start) - scoring;
        ++sums.decoded;
    }
}

KvSweepRow KvSweep::row_of(const std::string& policy, std::size_t budget, const Sums& sums) const {
    KvSweepRow row;
    const bool full = budget == options_.budgets.size();
    row.policy = policy;
    row.budget = full ? "100%" : options_.budgets[budget];
    row.budget_tokens = full ? options_.prompt_tokens : budget_tokens(budget);
    row.kld = {sums.kld.mean(), std::sqrt(sums.kld.variance_of_mean())};
    row.perplexity = std::exp(sums.nll.mean());
    row.same_top = sums.same_top.mean();
    for (const Moments& part : sums.part_kld) row.kld_by_part.push_back(part.mean());
    for (const Moments& part : sums.part_nll)
        row.perplexity_by_part.push_back(std::exp(part.mean()));
    row.kv_bytes = sums.kv_bytes;
    row.kv_share =
        full_bytes_ > 0 ? static_cast<double>(sums.kv_bytes) / static_cast<double>(full_bytes_) : 1;
    row.prompt_seconds = sums.prompt_seconds / static_cast<double>(texts_.size());
    row.tokens_per_second =
        sums.decode_seconds > 0 ? static_cast<double>(sums.decoded) / sums.decode_seconds : 0;
    row.needles = sums.needles;
    return row;
}

// The full cache's rows are what all others are held against; it is then measured as they are.
void KvSweep::measure_full() {
    const std::unique_ptr<Runner> runner = make_runner_("full");
    vocab_ = runner->spec().vocab;
    const auto row_bytes = static_cast<std::size_t>(vocab_) * sizeof(float);
    reference_ =
        Buffer(static_cast<std::size_t>(options_.texts * options_.answer_tokens) * row_bytes,
               Purpose::kLogits);
    Sums sums(static_cast<std::size_t>(options_.buckets));
    for (std::size_t text = 0; text < texts_.size(); ++text) {
        const std::span<const Token> tokens = texts_[text];
        const SeqId seq = runner->kv().open();
        const auto start = Clock::now();
        runner->prompt(seq, prompt(text), 0, {});
        sums.prompt_seconds += since(start);
        full_bytes_ = runner->kv().bytes(seq);
        for (std::int64_t i = 0; i + 1 < options_.answer_tokens; ++i) {
            const auto at = static_cast<std::size_t>(options_.prompt_tokens + i);
            runner->forward(seq, tokens.subspan(at, 1), 1, [&](std::int64_t, View logits) {
                auto* to = reinterpret_cast<float*>(
                    reference_.data() + (text * static_cast<std::size_t>(options_.answer_tokens) +
                                         static_cast<std::size_t>(i)) *
                                            row_bytes);
                for (std::int64_t v = 0; v < vocab_; ++v)
                    to[v] = logits.dtype == DType::kF64
                                ? static_cast<float>(logits.row<double>(0)[v])
                                : logits.row<float>(0)[v];
            });
        }
        runner->kv().truncate(seq, 0);
        runner->prompt(seq, prompt(text), 0, {});
        go_on(*runner, seq, text, sums);
        runner->kv().close(seq);
    }
    if (needles_ != nullptr) sums.needles = needles_->hits(needles_->ask(*runner, {}).front());
    full_ = row_of("full", options_.budgets.size(), sums);
}

// One prompt for all budgets, each of which goes on from a fork.
void KvSweep::measure_forks(const std::string& policy, std::vector<Sums>& sums) const {
    const auto runner = make_runner_(with_budget(policy, options_.prompt_tokens));
    runner->set_encoder(encode_);
    KvEngine& kv = runner->kv();
    std::vector<KvBudget> budgets;
    for (std::size_t b = 0; b < sums.size(); ++b)
        budgets.push_back(KvBudget::parse(std::to_string(budget_tokens(b)), "--budget"));
    for (std::size_t text = 0; text < texts_.size(); ++text) {
        const SeqId seq = kv.open();
        const auto start = Clock::now();
        runner->forward(seq, prompt(text), 0, {});
        runner->learn_prompt(seq, prompt(text));
        const double seconds = since(start);
        for (std::size_t b = 0; b < sums.size(); ++b) {
            const SeqId fork = kv.fork(seq);
            kv.set_budget(fork, budgets[b]);
            const auto edit = Clock::now();
            kv.end_prompt(runner->exec(), fork);
            sums[b].prompt_seconds += seconds + since(edit);
            go_on(*runner, fork, text, sums[b]);
            kv.close(fork);
        }
        kv.close(seq);
    }
    if (needles_ == nullptr) return;
    const std::vector<NeedleAnswers> answers = needles_->ask(*runner, budgets);
    for (std::size_t b = 0; b < sums.size(); ++b) sums[b].needles = needles_->hits(answers[b]);
}

// A model and a prompt for each budget.
void KvSweep::measure_anew(const std::string& policy, std::vector<Sums>& sums) const {
    for (std::size_t b = 0; b < sums.size(); ++b) {
        const auto runner = make_runner_(with_budget(policy, budget_tokens(b)));
        runner->set_encoder(encode_);
        for (std::size_t text = 0; text < texts_.size(); ++text) {
            const SeqId seq = runner->kv().open();
            const auto start = Clock::now();
            runner->prompt(seq, prompt(text), 0, {});
            sums[b].prompt_seconds += since(start);
            go_on(*runner, seq, text, sums[b]);
            runner->kv().close(seq);
        }
        if (needles_ != nullptr)
            sums[b].needles = needles_->hits(needles_->ask(*runner, {}).front());
    }
}

std::vector<KvSweepRow> KvSweep::measure(const std::string& policy) {
    std::vector<Sums> sums(options_.budgets.size(),
                           Sums(static_cast<std::size_t>(options_.buckets)));
    const KvChain chain = KvChain::parse(with_budget(policy, options_.prompt_tokens), "--policy");
    std::vector<KvSweepRow> rows;
    try {
        if (chain.edits() && chain.of(KvPolicy::kFilter) == nullptr) {
            measure_forks(policy, sums);
        } else {
            measure_anew(policy, sums);
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kUsage) throw;
        for (const std::string& budget : options_.budgets) {
            KvSweepRow& row = rows.emplace_back();
            row.policy = policy, row.budget = budget, row.refused = e.what();
        }
        return rows;
    }
    for (std::size_t b = 0; b < sums.size(); ++b) rows.push_back(row_of(policy, b, sums[b]));
    return rows;
}

std::vector<KvSweepRow> KvSweep::run(const Done& done) {
    const auto total = std::ssize(options_.policies) + 1;
    std::vector<KvSweepRow> rows;
    if (!done("full", 0, total)) return rows;
    measure_full();
    rows.push_back(full_);
    for (std::int64_t i = 0; i < std::ssize(options_.policies); ++i) {
        const std::string& policy = options_.policies[static_cast<std::size_t>(i)];
        if (!done(policy, i + 1, total)) break;
        for (KvSweepRow& row : measure(policy)) rows.push_back(std::move(row));
    }
    return rows;
}

}  // namespace thimble::eval
