// SPDX-License-Identifier: Apache-2.0
// "Transformers are Multi-State RNNs" (2024), token omission via attention: whenever there are too
// many tokens the one that the newest query attends to least goes, by the mean over all heads of
// the layer; all heads keep the same tokens.
#include <algorithm>

#include "kv/scoring.h"

namespace thimble {
namespace {

class TovaPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "tova";
    static constexpr std::string_view kHelp =
        "drops what the newest query attends to least, in all heads of a layer";
    struct Options {
        std::string budget = "50%";
        std::int64_t recent = 1;
        void visit(OptionVisitor& v) {
            v.option(
                {.name = "budget",
                 .help = "kept of a head and layer: tokens, 25% of those seen, or 64MiB in all",
                 .value = "SIZE"},
                budget);
            v.option({.name = "recent", .help = "newest tokens that always stay", .least = 0},
                     recent);
        }
    };

    TovaPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .edits_decode = true, .decode_sums = true, .window_rows = 1};
    }
    [[nodiscard]] unsigned duties() const override { return kScore; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.recent = options_.recent};
    }
    // Only the last row counts: the sums hold it until the edit that follows.
    void accumulate(const Exec& exec, const KvRows& rows, std::span<float> sums) const override {
        std::fill(sums.begin(), sums.end(), 0.0f);
        add_probabilities(exec, rows.logits, rows.group, sums);
    }
    void score(const KvLayerView& view, KvScores& out) const override {
        const int heads = view.shape().kv_heads;
        const std::int64_t group = view.shape().heads / heads;
        auto& mean = out.heads.front();
        for (int head = 0; head < heads; ++head) {
            if (!view.prompt()) {
                const auto sums = view.sums(head);
                for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += sums[i];
                continue;
            }
            std::pmr::vector<float> memory(&view.memory());
            const View row = view.window_logits(head, 1, memory);
            add_probabilities(view.exec(), row, group, mean);
        }
        for (auto& other : out.heads) other = mean;
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_tova_policy();
std::unique_ptr<KvPolicyType> make_tova_policy() {
    return std::make_unique<LeafOf<KvPolicy, TovaPolicy>>();
}

}  // namespace thimble
