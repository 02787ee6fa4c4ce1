// SPDX-License-Identifier: Apache-2.0
// "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation"
// (2025): as SnapKV, but only the heads that were seen to find things in long texts are asked; all
// heads of a layer keep the same tokens; layers that lose more to a small cache get more of the
// budget. Both come from a sidecar that is measured once for a model.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kv/head_profile.h"
#include "kv/scoring.h"

namespace thimble {
namespace {

class CompressKvPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "compresskv";
    static constexpr std::string_view kHelp =
        "snapkv by the heads that find things, with budgets by layer; needs sidecar=FILE from "
        "evaluate --find-retrieval-heads";
    struct Options {
        std::string budget = "50%";
        std::string sidecar;
        WindowScoring scoring{.window = 8};
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "sidecar",
                      .help = "heads and layers of this model",
                      .value = "FILE",
                      .is_input = true},
                     sidecar);
            scoring.visit(v);
        }
    };

    CompressKvPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {
        options.scoring.check(kName, where);
        if (options.sidecar.empty())
            throw Error(Exit::kUsage, std::string(where), "compresskv: no sidecar given",
                        "compresskv:sidecar=FILE, made by evaluate --find-retrieval-heads");
        profile_ = HeadProfile::read(options.sidecar);
    }

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .window_rows = options_.scoring.window, .one_set = true};
    }
    void check(const ModelInfo& model, std::string_view) const override {
        profile_.check(model, options_.sidecar);
    }
    [[nodiscard]] Measured measured() const override { return {options_.sidecar, profile_.model}; }
    [[nodiscard]] unsigned duties() const override { return kScore | kLayers; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.recent = options_.scoring.window};
    }

    // 32 tokens for each layer, the rest in proportion to its score, at most thrice the mean; what
    // rounding and limits leave goes to the layers with the highest scores.
    void plan_layers(KvLayerBudgets& budgets) const override {
        const std::int64_t mean = budgets.tokens, least = std::min<std::int64_t>(32, mean);
        const std::int64_t count = std::ssize(budgets.layers), total = mean * count;
        const auto score = [&](std::size_t i) {
            return profile_.layer_score[static_cast<std::size_t>(budgets.layers[i])];
        };
        std::vector<std::size_t> order(budgets.of.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return score(a) > score(b); });
        double sum = 0;
        for (const std::size_t i : order) sum += score(i);
        if (sum <= 0) return;
        for (const std::size_t i : order) {
            const auto extra =
                std::round(score(i) / sum * static_cast<double>(total - least * count));
            budgets.of[i] = std::clamp(least + static_cast<std::int64_t>(extra), least, 3 * mean);
        }
        std::int64_t left =
            total - std::accumulate(budgets.of.begin(), budgets.of.end(), std::int64_t{0});
        for (std::size_t next = 0; left != 0; next = (next + 1) % order.size()) {
            std::int64_t& of = budgets.of[order[next]];
            if (left > 0 && of < 3 * mean) ++of, --left;
            if (left < 0 && of > least) --of, ++left;
        }
    }

    void score(const KvLayerView& view, KvScores& out) const override {
        const std::int64_t group = view.shape().heads / view.shape().kv_heads;
        const auto& heads = profile_.heads[static_cast<std::size_t>(view.layer())];
        auto& mean = out.heads.front();
        for (int kv_head = 0; kv_head < view.shape().kv_heads; ++kv_head) {
            const auto asked = [&](std::int64_t g) {  // all where none is named
                return heads.empty() ||
                       std::find(heads.begin(), heads.end(), kv_head * group + g) != heads.end();
            };
            std::int64_t some = 0;
            for (std::int64_t g = 0; g < group; ++g) some += asked(g);
            if (some == 0) continue;
            const auto all =
                static_cast<float>(heads.empty() ? view.shape().heads : std::ssize(heads));
            for_window_heads(view, kv_head, options_.scoring.window, options_.scoring.kernel,
                             options_.scoring.how(),
                             [&](std::int64_t g, std::span<const std::int32_t> order,
                                 std::span<const float> sums) {
                                 if (!asked(g)) return;
                                 for (std::size_t i = 0; i < order.size(); ++i)
                                     mean[static_cast<std::size_t>(order[i])] += sums[i] / all;
                             });
        }
        for (auto& other : out.heads) other = mean;
    }

  private:
    Options options_;
    KvBudget budget_;
    HeadProfile profile_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_compresskv_policy();
std::unique_ptr<KvPolicyType> make_compresskv_policy() {
    return std::make_unique<LeafOf<KvPolicy, CompressKvPolicy>>();
}

}  // namespace thimble
