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
        std::int64_t window = 32;
        std::int64_t kernel = 5;
        std::string pooling = "mean";

        void visit(OptionVisitor& v) {
            v.option(
                {.name = "budget",
                 .help = "kept of a head and layer: tokens, 25% of those seen, or 64MiB in all",
                 .value = "SIZE"},
                budget);
            v.option({.name = "window",
                      .help = "last tokens of the prompt, whose queries score; always kept",
                      .least = 1,
                      .most = 4096},
                     window);
            v.option({.name = "kernel",
                      .help = "neighbouring tokens whose scores are pooled, an odd number",
                      .least = 1,
                      .most = 1023},
                     kernel);
            v.option(
                {.name = "pooling", .help = "how scores are pooled", .choices = {"mean", "max"}},
                pooling);
        }
    };

    SnapKvPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {
        if (options.kernel % 2 == 1) return;
        throw Error(Exit::kUsage, std::string(where), "snapkv: kernel must be odd");
    }

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .window_rows = options_.window};
    }
    [[nodiscard]] unsigned duties() const override { return kScore; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.recent = options_.window};
    }
    void score(const KvLayerView& view, KvScores& out) const override {
        score_by_window(view, options_.window, options_.kernel,
                        options_.pooling == "max" ? Pooling::kMax : Pooling::kMean, out);
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_snapkv_policy();
std::unique_ptr<KvPolicyType> make_snapkv_policy() {
    return std::make_unique<LeafOf<KvPolicy, SnapKvPolicy>>();
}

}  // namespace thimble
