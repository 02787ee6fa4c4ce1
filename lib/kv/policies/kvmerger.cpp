// SPDX-License-Identifier: Apache-2.0
// "Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context Tasks"
// (2024): when the prompt ends, the most recent tokens and those with most attention stay; of the
// others neighbours with similar keys become one each, a mean weighted with a Gaussian around the
// member with most attention. differs: sigma is first the mean distance over sqrt(2), then once
// what the paper says of it. Attention to a merged slot is kept up by ln(n) added to its logits
// (mass=bias), not by values n times as large (mass=paper). The least similarity is found by
// bisection; where even 0.5 leaves too many sets, those with least attention go. Nothing is merged
// after the prompt; layers where nothing is to be merged drop what has least attention.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "kv/chain.h"
#include "kv/scoring.h"

namespace thimble {
namespace {

class KvMergerPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "kvmerger";
    static constexpr std::string_view kHelp =
        "at the end of the prompt merges neighbours whose keys are alike";
    struct Options {
        std::string budget = "50%";
        double recent = 0.17;
        double heavy = 0.5;
        double least_cosine = 0;
        std::string mass = "bias";
        std::int64_t first_layers = 2;
        std::int64_t last_layers = 1;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "recent",
                      .help = "share of the budget for the most recent tokens",
                      .least = 0,
                      .most = 1},
                     recent);
            v.option({.name = "heavy",
                      .help = "share for those with most attention, which are not merged, either",
                      .least = 0,
                      .most = 1},
                     heavy);
            v.option({.name = "least_cosine",
                      .help = "neighbours as alike are merged; 0: what the budget asks for",
                      .least = 0,
                      .most = 1},
                     least_cosine);
            v.option(
                {.name = "mass",
                 .help = "what a merged slot has for its members: bias, ln(n) added to logits; "
                         "paper, values times n; none",
                 .choices = {"bias", "paper", "none"}},
                mass);
            v.option({.name = "first_layers", .help = "that drop instead", .least = 0},
                     first_layers);
            v.option({.name = "last_layers", .help = "that drop instead", .least = 0}, last_layers);
        }
    };

    KvMergerPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {
        if (options.recent + options.heavy <= 1) return;
        throw Error(Exit::kUsage, std::string(where),
                    "kvmerger: recent and heavy exceed the budget", "their sum is at most 1");
    }

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .prompt_sums = true, .edit_vectors = 1};
    }
    [[nodiscard]] unsigned duties() const override { return kScore | kHeads | kMerge; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t tokens) const override {
        return {.recent = share(options_.recent, tokens)};
    }
    void accumulate(const Exec& exec, const KvRows& rows, std::span<float> sums) const override {
        add_probabilities(exec, rows.logits, rows.group, sums);
    }
    void score(const KvLayerView& view, KvScores& out) const override { score_by_sums(view, out); }

    void choose(const KvLayerView& view, const KvScores& scores, Protected protect,
                std::int64_t tokens, KvEdit& edit) const override {
        const auto layers = std::ssize(view.model().layers);
        const bool merges =
            view.layer() >= options_.first_layers && view.layer() < layers - options_.last_layers;
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            const auto h = static_cast<std::size_t>(head);
            const auto positions = view.positions(head);
            const std::int64_t whole =
                merges ? share(options_.recent + options_.heavy, tokens) : tokens;
            edit.heads[h].keep = keep_best(positions, scores.heads[h], protect, view.seen(), whole);
            if (merges) merge_head(view, head, scores.heads[h], tokens, edit.heads[h]);
        }
    }

  private:
    using Set = std::vector<std::int32_t>;  // slots of consecutive positions, ascending

    static std::int64_t share(double of, std::int64_t tokens) {
        return static_cast<std::int64_t>(of * static_cast<double>(tokens));
    }

    static double distance(const View& keys, std::int32_t a, std::int32_t b) {
        double sum = 0;
        for (std::int64_t c = 0; c < keys.cols; ++c) {
            const double d = static_cast<double>(keys.row<float>(a)[c]) -
                             static_cast<double>(keys.row<float>(b)[c]);
            sum += d * d;
        }
        return std::sqrt(sum);
    }

    static double cosine(const View& keys, std::int32_t a, std::int32_t b) {
        double ab = 0, aa = 0, bb = 0;
        for (std::int64_t c = 0; c < keys.cols; ++c) {
            const auto x = static_cast<double>(keys.row<float>(a)[c]);
            const auto y = static_cast<double>(keys.row<float>(b)[c]);
            ab += x * y, aa += x * x, bb += y * y;
        }
        return ab / std::sqrt(std::max(aa * bb, 1e-300));
    }

    // `alike[i]`: how alike the keys of order[i] and order[i + 1] are, below -1 where they are no
    // neighbours or one of them is not to be merged.
    static std::vector<Set> sets_of(std::span<const std::int32_t> order,
                                    std::span<const double> alike, const std::vector<bool>& whole,
                                    double least) {
        std::vector<Set> sets;
        for (std::size_t i = 0; i < order.size(); ++i) {
            if (whole[static_cast<std::size_t>(order[i])]) continue;
            if (sets.empty() || i == 0 || alike[i - 1] < least) sets.emplace_back();
            sets.back().push_back(order[i]);
        }
        return sets;
    }

    void merge_head(const KvLayerView& view, int head, std::span<const float> sums,
                    std::int64_t tokens, KvHeadEdit& edit) const {
        std::pmr::vector<float> memory(&view.memory());
        const View keys = view.keys(head, memory);
        const auto positions = view.positions(head);
        const std::vector<std::int32_t> order = by_position(positions);
        std::vector<bool> whole(positions.size());
        for (const std::int32_t slot : edit.keep) whole[static_cast<std::size_t>(slot)] = true;
        std::vector<double> alike(order.size(), -2);
        for (std::size_t i = 0; i + 1 < order.size(); ++i) {
            const auto a = static_cast<std::size_t>(order[i]),
                       b = static_cast<std::size_t>(order[i + 1]);
            if (whole[a] || whole[b] || positions[b] != positions[a] + 1) continue;
            alike[i] = cosine(keys, order[i], order[i + 1]);
        }
        const std::int64_t room = tokens - std::ssize(edit.keep);
        std::vector<Set> sets =
            sets_of(order, alike, whole, least_cosine(order, alike, whole, room));
        const auto mass = [&](const Set& set) {
            double sum = 0;
            for (const std::int32_t slot : set)
                sum += static_cast<double>(sums[static_cast<std::size_t>(slot)]);
            return sum;
        };
        if (std::ssize(sets) > room) {
            std::stable_sort(sets.begin(), sets.end(),
                             [&](const Set& a, const Set& b) { return mass(a) > mass(b); });
            sets.resize(static_cast<std::size_t>(room));
        }
        for (const Set& set : sets) {
            std::int32_t pivot = set.front();
            for (const std::int32_t slot : set) {
                if (sums[static_cast<std::size_t>(slot)] >= sums[static_cast<std::size_t>(pivot)])
                    pivot = slot;
            }
            edit.keep.push_back(pivot);
            if (set.size() > 1) edit.merges.push_back(merged(keys, set, pivot));
        }
        std::sort(edit.keep.begin(), edit.keep.end());
    }

    // The largest in [0.5, 1) that leaves no more sets than there is room for, or 0.5.
    double least_cosine(std::span<const std::int32_t> order, std::span<const double> alike,
                        const std::vector<bool>& whole, std::int64_t room) const {
        if (options_.least_cosine > 0) return options_.least_cosine;
        double low = 0.5, high = 1;
        constexpr int kRounds = 16;
        for (int i = 0; i < kRounds; ++i) {
            const double middle = (low + high) / 2;
            (std::ssize(sets_of(order, alike, whole, middle)) <= room ? low : high) = middle;
        }
        return low;
    }

    KvMerge merged(const View& keys, const Set& set, std::int32_t pivot) const {
        const auto count = static_cast<double>(set.size());
        std::vector<double> distances, weights(set.size());
        double mean = 0;
        for (const std::int32_t slot : set) {
            distances.push_back(distance(keys, pivot, slot));
            mean += distances.back() / count;
        }
        const auto weigh = [&](double sigma) {
            sigma = std::max(sigma, 1e-6);
            double sum = 0;
            for (std::size_t i = 0; i < set.size(); ++i)
                sum += weights[i] = std::exp(-distances[i] * distances[i] / (2 * sigma * sigma));
            return sum;
        };
        const double sum = weigh(weigh(mean / std::numbers::sqrt2) / (std::numbers::sqrt2 * count));
        KvMerge out{.into = pivot, .slots = set, .key_weights = {}, .value_weights = {}};
        const double values = options_.mass == "paper" ? count : 1;
        for (const double w : weights) {
            out.key_weights.push_back(static_cast<float>(w / sum));
            out.value_weights.push_back(static_cast<float>(values * w / sum));
        }
        if (options_.mass == "bias") out.bias = static_cast<float>(std::log(count));
        return out;
    }

    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_kvmerger_policy();
std::unique_ptr<KvPolicyType> make_kvmerger_policy() {
    return std::make_unique<LeafOf<KvPolicy, KvMergerPolicy>>();
}

}  // namespace thimble
