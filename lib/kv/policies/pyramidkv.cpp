// SPDX-License-Identifier: Apache-2.0
// "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling" (2024):
// SnapKV's scores with more of the budget for low layers, where attention is spread, and less for
// high ones. What layers keep beside the window falls evenly from 2c - c / beta to c / beta, with c
// the mean; none is to keep more than there is. differs: heads of a group share one set, as in
// snapkv. The window counts inside the budget. As in the published code, budgets too small for the
// slope (c / beta below the window) are uniform.
#include <cmath>

#include "kv/scoring.h"

namespace thimble {
namespace {

class PyramidKvPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "pyramidkv";
    static constexpr std::string_view kHelp = "snapkv with more of the budget for low layers";
    struct Options {
        std::string budget = "50%";
        WindowScoring scoring;
        double beta = 20;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            scoring.visit(v);
            v.option({.name = "beta",
                      .help = "the mean budget over that of the last layer, both beside the window",
                      .least = 1},
                     beta);
        }
    };

    PyramidKvPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {
        options.scoring.check(kName, where);
    }

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .window_rows = options_.scoring.window};
    }
    [[nodiscard]] unsigned duties() const override { return kScore | kLayers; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.recent = options_.scoring.window};
    }
    void score(const KvLayerView& view, KvScores& out) const override {
        score_by_window(view, options_.scoring, out);
    }

    void plan_layers(KvLayerBudgets& budgets) const override {
        const auto layers = std::ssize(budgets.layers);
        const std::int64_t window = options_.scoring.window, mean = budgets.tokens - window;
        const std::int64_t all = budgets.seen - window;
        auto least = static_cast<std::int64_t>(static_cast<double>(mean) / options_.beta);
        std::int64_t most = 2 * mean - least;
        if (most >= all) most = all, least = 2 * mean - most;
        if (layers < 2 || most > budgets.seen || most < least || least < window) return;
        // Half to even, so that what is rounded up at one end is rounded down at the other: the sum
        // is layers * tokens.
        const double slope = static_cast<double>(most - least) / static_cast<double>(layers - 1);
        for (std::int64_t i = 0; i < layers; ++i) {
            const double of = static_cast<double>(most) - static_cast<double>(i) * slope;
            budgets.of[static_cast<std::size_t>(i)] =
                window + static_cast<std::int64_t>(std::nearbyint(of));
        }
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_pyramidkv_policy();
std::unique_ptr<KvPolicyType> make_pyramidkv_policy() {
    return std::make_unique<LeafOf<KvPolicy, PyramidKvPolicy>>();
}

}  // namespace thimble
