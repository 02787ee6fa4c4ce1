// SPDX-License-Identifier: Apache-2.0
// "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference"
// (2024): the heads of a layer share its budget. Each keeps what is protected and its own best
// int(alpha * budget) slots; what is left goes to the best slots of all heads.
#include <algorithm>

#include "kv/chain.h"

namespace thimble {
namespace {

class AdaKvPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "adakv";
    static constexpr std::string_view kHelp =
        "lets heads of a layer share its budget by their scores";
    struct Options {
        double alpha = 0.2;
        void visit(OptionVisitor& v) {
            v.option({.name = "alpha",
                      .help = "share of the budget that every head has for itself",
                      .least = 0,
                      .most = 1},
                     alpha);
        }
    };

    AdaKvPolicy(const Options& options, std::string_view) : alpha_(options.alpha) {}

    [[nodiscard]] KvNeeds needs() const override { return {}; }
    [[nodiscard]] unsigned duties() const override { return kHeads; }

    void choose(const KvLayerView& view, const KvScores& scores, Protected protect,
                std::int64_t tokens, KvEdit& edit) const override {
        std::vector<Candidate> others;
        std::int64_t room = tokens * view.shape().kv_heads;
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            const auto h = static_cast<std::size_t>(head);
            const auto positions = view.positions(head);
            const auto fixed = std::count_if(positions.begin(), positions.end(), [&](auto p) {
                return p < protect.sinks || p >= view.seen() - protect.recent;
            });
            const auto own = static_cast<std::int64_t>(alpha_ * static_cast<double>(tokens));
            auto& keep = edit.heads[h].keep;
            keep = keep_best(positions, scores.heads[h], protect, view.seen(),
                             std::min(tokens, std::max<std::int64_t>(own, fixed)));
            room -= std::ssize(keep);
            auto kept = keep.begin();
            for (std::int32_t slot = 0; slot < std::ssize(positions); ++slot) {
                const auto s = static_cast<std::size_t>(slot);
                if (kept != keep.end() && *kept == slot) {
                    ++kept;
                } else {
                    others.push_back({scores.heads[h][s], positions[s], head, slot});
                }
            }
        }
        const auto count = std::min<std::ptrdiff_t>(room, std::ssize(others));
        std::nth_element(others.begin(), others.begin() + count, others.end());
        others.resize(static_cast<std::size_t>(count));
        for (const Candidate& c : others)
            edit.heads[static_cast<std::size_t>(c.head)].keep.push_back(c.slot);
        for (auto& head : edit.heads) std::sort(head.keep.begin(), head.keep.end());
    }

  private:
    struct Candidate {
        float score;
        std::int32_t position, head, slot;
        // The better one first; what is NaN last, equal ones by position, later first.
        bool operator<(const Candidate& other) const {
            const bool nan = score != score, other_nan = other.score != other.score;
            if (nan != other_nan) return other_nan;
            if (!nan && score != other.score) return score > other.score;
            if (position != other.position) return position > other.position;
            return head < other.head;
        }
    };

    double alpha_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_adakv_policy();
std::unique_ptr<KvPolicyType> make_adakv_policy() {
    return std::make_unique<LeafOf<KvPolicy, AdaKvPolicy>>();
}

}  // namespace thimble
