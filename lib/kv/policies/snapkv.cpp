// SPDX-License-Identifier: Apache-2.0
// "SnapKV: LLM Knows What You are Looking for Before Generation" (2024): when the prompt ends, each
// K/V head keeps the last `window` tokens and those before them that the window's queries attend to
// most. Nothing is dropped afterwards.
// differs: heads of a group share one set, by the mean of their scores; keys are never repeated for
// query heads.
#include "kv/scoring.h"

namespace thimble {
namespace {

class SnapKvPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "snapkv";
    static constexpr std::string_view kHelp =
        "at the end of the prompt keeps what its last tokens attend to";
    struct Options {
        std::string budget = "50%";
        WindowScoring scoring;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            scoring.visit(v);
        }
    };

    SnapKvPolicy(const Options& options, std::string_view where)
        : scoring_(options.scoring), budget_(KvBudget::parse(options.budget, where)) {
        scoring_.check(kName, where);
    }

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .window_rows = scoring_.window};
    }
    [[nodiscard]] unsigned duties() const override { return kScore; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.recent = scoring_.window};
    }
    void score(const KvLayerView& view, KvScores& out) const override {
        score_by_window(view, scoring_, out);
    }

  private:
    WindowScoring scoring_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_snapkv_policy();
std::unique_ptr<KvPolicyType> make_snapkv_policy() {
    return std::make_unique<LeafOf<KvPolicy, SnapKvPolicy>>();
}

}  // namespace thimble
