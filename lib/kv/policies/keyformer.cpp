// SPDX-License-Identifier: Apache-2.0
// "Keyformer: KV Cache Reduction through Key Tokens Selection for Efficient Generative Inference"
// (2024): as H2O, but the sums are of softmax((x + z) / tau) over logits x with Gumbel noise z,
// drawn anew for each row and key, which keeps what survives from gaining all the mass that was
// dropped; tau rises while answering. Attention itself knows neither.
// differs: the temperature rises linearly over `tokens` tokens after the prompt, then stays; heads
// of a group share one set, by the mean of their sums.
#include <algorithm>
#include <cmath>

#include "kernels/layout/rng.h"
#include "kv/scoring.h"

namespace thimble {
namespace {

class KeyformerPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "keyformer";
    static constexpr std::string_view kHelp =
        "h2o with Gumbel noise and a temperature in its scores";
    struct Options {
        std::string budget = "60%";
        double recent = 0.3;
        double noise = 1;
        double tau = 1;
        double tau_end = 2;
        std::int64_t tokens = 256;
        std::int64_t seed = 0;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "recent",
                      .help = "share of the budget for the most recent tokens",
                      .least = 0,
                      .most = 1},
                     recent);
            v.option({.name = "noise", .help = "factor of the noise; 0: none", .least = 0}, noise);
            v.option({.name = "tau", .help = "temperature in the prompt", .least = 0.01}, tau);
            v.option({.name = "tau_end",
                      .help = "temperature from `tokens` tokens after the prompt on",
                      .least = 0.01},
                     tau_end);
            v.option({.name = "tokens", .help = "over which the temperature rises", .least = 1},
                     tokens);
            v.option({.name = "seed", .help = "of the noise", .least = 0}, seed);
        }
    };

    KeyformerPolicy(const Options& options, std::string_view where)
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
        exec.team->run(rows.logits.rows, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = begin; r < end; ++r) disturb(rows, r);
        });
        add_probabilities(exec, rows.logits, rows.group, sums);
    }
    void score(const KvLayerView& view, KvScores& out) const override { score_by_sums(view, out); }

  private:
    // x -> (x + z) / tau. A key's noise is a number of (seed, layer, head, row, key) alone.
    void disturb(const KvRows& rows, std::int64_t r) const {
        const std::int64_t position = rows.positions[static_cast<std::size_t>(r / rows.group)];
        const auto head = static_cast<std::uint64_t>(rows.kv_head * rows.group + r % rows.group);
        const std::uint64_t stream = static_cast<std::uint64_t>(rows.layer) << 32 | head;
        double tau = options_.tau;
        if (!rows.prompt) {
            const auto after = static_cast<double>(position - rows.prompt_tokens + 1);
            tau += (options_.tau_end - tau) *
                   std::min(after / static_cast<double>(options_.tokens), 1.0);
        }
        const auto noise = static_cast<float>(options_.noise);
        const auto inverse = static_cast<float>(1 / tau);
        float* x = rows.logits.row<float>(r);
        Philox4 drawn{};
        std::uint64_t drawn_at = ~std::uint64_t{0};
        for (std::size_t i = 0; i < rows.keys.size(); ++i) {
            const auto key = static_cast<std::uint64_t>(rows.keys[i]);
            if (noise > 0) {
                const std::uint64_t counter = static_cast<std::uint64_t>(position) << 32 | key / 4;
                if (counter != drawn_at) {
                    drawn_at = counter;
                    drawn = philox(static_cast<std::uint64_t>(options_.seed), counter, stream);
                }
                const float u = std::clamp(unit_float(drawn.v[key % 4]), 0x1p-24f, 1 - 0x1p-24f);
                x[i] -= noise * std::log(-std::log(u));
            }
            x[i] *= inverse;
        }
    }

    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_keyformer_policy();
std::unique_ptr<KvPolicyType> make_keyformer_policy() {
    return std::make_unique<LeafOf<KvPolicy, KeyformerPolicy>>();
}

}  // namespace thimble
