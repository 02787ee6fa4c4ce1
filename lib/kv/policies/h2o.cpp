// SPDX-License-Identifier: Apache-2.0
// "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models" (2023):
// keeps the most recent tokens and those that have received most attention since they were written.
// Scores of the survivors are never reset.
// differs: heads of a group share one set, by the mean of their probabilities.
#include "kv/scoring.h"

namespace thimble {
namespace {

class H2oPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "h2o";
    static constexpr std::string_view kHelp =
        "keeps recent tokens and those that received most attention so far";
    struct Options {
        std::string budget = "20%";
        double recent = 0.5;
        bool normalise = false;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "recent",
                      .help = "share of the budget for the most recent tokens",
                      .least = 0,
                      .most = 1},
                     recent);
            v.option({.name = "normalise",
                      .help = "scores are divided by the number of queries that could see the key"},
                     normalise);
        }
    };

    H2oPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {
            .edits_prompt = true, .edits_decode = true, .prompt_sums = true, .decode_sums = true};
    }
    [[nodiscard]] unsigned duties() const override { return kScore; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t tokens) const override {
        return {.recent = static_cast<std::int64_t>(options_.recent * static_cast<double>(tokens))};
    }
    void accumulate(const Exec& exec, const KvRows& rows, std::span<float> sums) const override {
        add_probabilities(exec, rows.logits, rows.group, sums);
    }
    void score(const KvLayerView& view, KvScores& out) const override {
        score_by_sums(view, out);
        if (!options_.normalise) return;
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            const auto positions = view.positions(head);
            for (std::size_t i = 0; i < positions.size(); ++i)
                out.heads[static_cast<std::size_t>(head)][i] /=
                    static_cast<float>(view.seen() - positions[i]);
        }
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_h2o_policy();
std::unique_ptr<KvPolicyType> make_h2o_policy() {
    return std::make_unique<LeafOf<KvPolicy, H2oPolicy>>();
}

}  // namespace thimble
