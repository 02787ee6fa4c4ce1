// SPDX-License-Identifier: Apache-2.0
// "Discovering the Gems in Early Layers: Accelerating Long-Context LLMs with 1000x Input Token
// Reduction" (2024): an early layer's last query rates the tokens of a prompt; the model then reads
// the best of them, in their order, as if they were the prompt. Combines with any policy that
// follows it in a chain.
#include <algorithm>

#include "core/error.h"
#include "kv/scoring.h"

namespace thimble {
namespace {

class GemFilterPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "gemfilter";
    static constexpr std::string_view kHelp =
        "an early layer chooses the tokens of the prompt that the model reads at all";
    struct Options {
        std::string budget = "1024";
        std::int64_t layer = -1;
        std::int64_t kernel = 5;
        std::int64_t first = 0, last = 0;
        void visit(OptionVisitor& v) {
            v.option({.name = "budget",
                      .help = "tokens of the prompt that are read: a number or 25%",
                      .value = "SIZE"},
                     budget);
            v.option({.name = "layer",
                      .help = "layer that chooses, from 0; -1: the first without a window past two "
                              "fifths of them",
                      .least = -1},
                     layer);
            v.option({.name = "kernel",
                      .help = "neighbouring tokens whose ratings are averaged, an odd number",
                      .least = 1,
                      .most = 1023},
                     kernel);
            v.option(
                {.name = "first", .help = "tokens at the beginning that always stay", .least = 0},
                first);
            v.option({.name = "last", .help = "tokens at the end that always stay", .least = 0},
                     last);
        }
    };

    GemFilterPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {
        if (options.kernel % 2 == 1) return;
        throw Error(Exit::kUsage, std::string(where), "gemfilter: kernel must be odd");
    }

    [[nodiscard]] KvNeeds needs() const override { return {.window_rows = 1}; }
    [[nodiscard]] unsigned duties() const override { return kFilter; }
    [[nodiscard]] const KvBudget* filter_budget() const override { return &budget_; }
    [[nodiscard]] int filter_layer(const ModelInfo& model) const override {
        const auto layers = std::ssize(model.layers);
        if (options_.layer >= layers) {
            throw Error(Exit::kUsage, "--kv-policy",
                        "gemfilter: layer=" + std::to_string(options_.layer) +
                            ", and the model has " + std::to_string(layers));
        }
        if (options_.layer >= 0) return static_cast<int>(options_.layer);
        for (std::int64_t i = layers * 2 / 5; i < layers; ++i) {
            if (model.layers[static_cast<std::size_t>(i)].window == 0) return static_cast<int>(i);
        }
        return static_cast<int>(layers - 1);
    }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.sinks = options_.first, .recent = options_.last};
    }
    void rate_prompt(const KvLayerView& view, std::span<float> out) const override {
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            std::pmr::vector<float> memory(&view.memory());
            const View logits = view.window_logits(head, 1, memory);
            for (std::int64_t r = 0; r < logits.rows; ++r) {
                for (std::size_t i = 0; i < out.size(); ++i) out[i] += logits.row<float>(r)[i];
            }
        }
        pool(out, options_.kernel, Pooling::kMean, view.memory());
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_gemfilter_policy();
std::unique_ptr<KvPolicyType> make_gemfilter_policy() {
    return std::make_unique<LeafOf<KvPolicy, GemFilterPolicy>>();
}

}  // namespace thimble
