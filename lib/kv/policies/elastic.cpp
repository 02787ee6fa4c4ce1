// SPDX-License-Identifier: Apache-2.0
// "Efficient Inference of Vision Instruction-Following Models with Elastic Cache" (2024): when the
// prompt ends, the first tokens, the last one and those with the most attention of all heads are
// anchors; every other slot is merged into the nearest scored anchor, a plain mean. While
// answering, nothing is scored: slots before a fixed place stay, of the others the oldest goes.
// differs: the paper's intent where its code mixes up ranks and orders; a slot as near to two
// anchors joins the later one.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kv/scoring.h"

namespace thimble {
namespace {

constexpr float kForEver = std::numeric_limits<float>::infinity();

class ElasticPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "elastic";
    static constexpr std::string_view kHelp =
        "merges what a prompt's queries attend to little into its nearest neighbours";
    struct Options {
        std::string budget = "80%";
        std::int64_t sink = 4;
        std::int64_t distance = -25;
        std::string mass = "none";
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "sink", .help = "first tokens, which stay as they are", .least = 0},
                     sink);
            v.option(
                {.name = "distance",
                 .help = "slots before this place stay while answering; negative: counted from "
                         "the end of the prompt's"},
                distance);
            v.option({.name = "mass",
                      .help = "bias: a slot that stands for n tokens has ln(n) added to its logits",
                      .choices = {"none", "bias"}},
                     mass);
        }
    };

    ElasticPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .edits_decode = true, .prompt_sums = true, .one_set = true};
    }
    [[nodiscard]] unsigned duties() const override { return kScore | kMerge; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.sinks = options_.sink, .recent = 1};
    }
    void accumulate(const Exec& exec, const KvRows& rows, std::span<float> sums) const override {
        add_probabilities(exec, rows.logits, rows.group, sums);
    }

    // After the prompt a slot's sum says whether it stays for ever.
    void score(const KvLayerView& view, KvScores& out) const override {
        auto& mean = out.heads.front();
        const auto positions = view.positions(0);
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            const auto sums = view.sums(head);
            for (std::size_t i = 0; i < mean.size(); ++i) {
                if (view.prompt()) {
                    mean[i] += sums[i] / static_cast<float>(view.shape().kv_heads);
                } else {
                    mean[i] = sums[i] == kForEver ? kForEver : static_cast<float>(positions[i]);
                }
            }
        }
        for (auto& other : out.heads) other = mean;
    }

    void merge(const KvLayerView& view, const KvScores&, KvEdit& edit) const override {
        if (!view.prompt()) return;
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            const auto positions = view.positions(head);
            auto& of = edit.heads[static_cast<std::size_t>(head)];
            merge_head(view, positions, of);
            mark(positions, of.keep, view.sums(head));
        }
    }

  private:
    void merge_head(const KvLayerView& view, std::span<const std::int32_t> positions,
                    KvHeadEdit& edit) const {
        const auto position = [&](std::int32_t slot) {
            return positions[static_cast<std::size_t>(slot)];
        };
        std::vector<KvMerge> anchors;
        std::vector<bool> kept(positions.size());
        for (const std::int32_t slot : by_position(positions)) {
            if (!std::binary_search(edit.keep.begin(), edit.keep.end(), slot)) continue;
            kept[static_cast<std::size_t>(slot)] = true;
            if (position(slot) >= options_.sink && position(slot) < view.seen() - 1)
                anchors.push_back(
                    {.into = slot, .slots = {slot}, .key_weights = {}, .value_weights = {}});
        }
        if (anchors.empty()) return;
        for (std::int32_t slot = 0; slot < std::ssize(positions); ++slot) {
            if (kept[static_cast<std::size_t>(slot)]) continue;
            auto next = std::lower_bound(
                anchors.begin(), anchors.end(), position(slot),
                [&](const KvMerge& m, std::int32_t p) { return position(m.into) < p; });
            const bool before =
                next != anchors.begin() &&
                (next == anchors.end() || position(slot) - position(std::prev(next)->into) <
                                              position(next->into) - position(slot));
            (before ? std::prev(next) : next)->slots.push_back(slot);
        }
        for (KvMerge& m : anchors) {
            if (m.slots.size() == 1) continue;
            const auto count = static_cast<float>(m.slots.size());
            m.key_weights.assign(m.slots.size(), 1 / count);
            m.value_weights = m.key_weights;
            if (options_.mass == "bias") m.bias = std::log(count);
            edit.merges.push_back(std::move(m));
        }
    }

    void mark(std::span<const std::int32_t> positions, const std::vector<std::int32_t>& keep,
              std::span<float> sums) const {
        std::vector<std::int32_t> order = by_position(positions);
        std::erase_if(order, [&](std::int32_t slot) {
            return !std::binary_search(keep.begin(), keep.end(), slot);
        });
        const std::int64_t count = std::ssize(order);
        const std::int64_t place = std::clamp<std::int64_t>(
            options_.distance > 0 ? options_.distance : count + options_.distance, 0, count);
        for (std::int64_t i = 0; i < count; ++i)
            sums[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] =
                i < place ? kForEver : 0.0f;
    }

    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_elastic_policy();
std::unique_ptr<KvPolicyType> make_elastic_policy() {
    return std::make_unique<LeafOf<KvPolicy, ElasticPolicy>>();
}

}  // namespace thimble
