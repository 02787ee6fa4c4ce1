// SPDX-License-Identifier: Apache-2.0
// What KV-cache policies cost and save on one model: each policy at several budgets reads the same
// long prompts, drops what it drops when they end, and goes on with the text that follows; every
// row of logits is compared with that of the full cache. Then numbers that stand in a made text are
// asked for (KvNeedles). A policy that edits at the prompt's end reads a prompt once for all
// budgets; each budget goes on from a fork.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/plan.h"
#include "eval/kv_needles.h"
#include "eval/moments.h"
#include "io/json.h"
#include "model/runner.h"
#include "text/tokenizer.h"

namespace thimble::eval {

struct KvSweepOptions {
    std::vector<std::string> policies;  // "snapkv", "snapkv+adakv"; without budgets
    std::vector<std::string> budgets = {"50%", "25%", "10%"};
    std::int64_t prompt_tokens = 4096, answer_tokens = 128, texts = 1;
    std::int64_t buckets = 4;   // parts of the answer with a perplexity of their own
    std::int64_t needles = 10;  // numbers to find in a text as long as the prompt; 0: none
};

struct KvSweepRow {
    std::string policy, budget;
    std::int64_t budget_tokens = 0;
    Estimate kld;  // nats per token, against the full cache
    double perplexity = 0, same_top = 0;
    std::vector<double> perplexity_by_part, kld_by_part;
    std::uint64_t kv_bytes = 0;  // of a sequence after the prompt, by the ledger's count
    double kv_share = 0;         // of the full cache's
    double prompt_seconds = 0, tokens_per_second = 0;
    NeedleHits needles;
    std::string refused;  // why there are no figures
};

class KvSweep {
  public:
    using MakeRunner = std::function<std::unique_ptr<Runner>(const std::string& policy)>;
    // Error(kUsage) for budgets and policies that there are not.
    static void check(const KvSweepOptions& options);
    // `texts`: each prompt and answer. `needles`: of options.needles; null: none.
    KvSweep(const KvSweepOptions& options, std::vector<std::vector<Token>> texts,
            const KvNeedles* needles, MakeRunner make_runner, Runner::Encode encode);

    using Done = std::function<bool(std::string_view what, std::int64_t done, std::int64_t total)>;
    // The full cache first. Stops early where `done` returns false.
    [[nodiscard]] std::vector<KvSweepRow> run(const Done& done);

    // What the reference's rows hold.
    [[nodiscard]] static std::uint64_t reference_bytes(const KvSweepOptions& options,
                                                       std::int64_t vocab);
    // "snapkv:budget=1024+adakv": the budget goes to the link that has one.
    [[nodiscard]] static std::string with_budget(const std::string& policy, std::int64_t tokens);

  private:
    struct Sums;
    void measure_full();
    [[nodiscard]] std::vector<KvSweepRow> measure(const std::string& policy);
    void measure_forks(const std::string& policy, std::vector<Sums>& sums) const;
    void measure_anew(const std::string& policy, std::vector<Sums>& sums) const;
    void go_on(Runner& runner, SeqId seq, std::size_t text, Sums& sums) const;
    [[nodiscard]] KvSweepRow row_of(const std::string& policy, std::size_t budget,
                                    const Sums& sums) const;
    [[nodiscard]] std::int64_t budget_tokens(std::size_t budget) const;
    [[nodiscard]] std::span<const Token> prompt(std::size_t text) const;

    KvSweepOptions options_;
    std::vector<std::vector<Token>> texts_;
    const KvNeedles* needles_;
    MakeRunner make_runner_;
    Runner::Encode encode_;
    Buffer reference_;  // [texts, answer, vocab] F32
    std::int64_t vocab_ = 0;
    std::uint64_t full_bytes_ = 0;
    KvSweepRow full_;
};

[[nodiscard]] Json kv_sweep_json(const KvSweepOptions& options,
                                 const std::vector<KvSweepRow>& rows);
[[nodiscard]] std::string kv_sweep_table(const KvSweepOptions& options,
                                         const std::vector<KvSweepRow>& rows);
// Divergence against the share of the cache that is kept, one line for each policy.
[[nodiscard]] std::string kv_sweep_svg(const std::vector<KvSweepRow>& rows, std::string_view title);

}  // namespace thimble::eval
