// SPDX-License-Identifier: Apache-2.0
// "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference" (2024): nothing is
// dropped, but after the prompt a query reads only the pages whose keys may matter to it. A page is
// known by the least and the largest value of each channel of its keys; the sum over channels of
// max(q * least, q * largest) is then at least q.k for every key in it, in this arithmetic, too.
// differs: heads of a group read one set of pages, by the largest of their bounds.
#include <algorithm>

#include "kv/scoring.h"

namespace thimble {
namespace {

class QuestPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "quest";
    static constexpr std::string_view kHelp =
        "keeps every key, but a query reads only the pages that may matter to it: saves time, not "
        "memory";
    struct Options {
        std::string budget = "1024";
        std::int64_t page = 16;
        std::int64_t dense_layers = 2;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "page", .help = "tokens of a page", .least = 1, .most = 1024}, page);
            v.option(
                {.name = "dense_layers", .help = "first layers, which read everything", .least = 0},
                dense_layers);
        }
    };

    QuestPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.block_tokens = options_.page, .block_vectors = 2};
    }
    [[nodiscard]] unsigned duties() const override { return kBlocks; }

    void describe(View keys, float* out) const override {
        for (std::int64_t c = 0; c < keys.cols; ++c)
            out[c] = out[keys.cols + c] = keys.row<float>(0)[c];
        for (std::int64_t r = 1; r < keys.rows; ++r) {
            for (std::int64_t c = 0; c < keys.cols; ++c) {
                const float k = keys.row<float>(r)[c];
                out[c] = std::min(out[c], k);
                out[keys.cols + c] = std::max(out[keys.cols + c], k);
            }
        }
    }
    void rate(View queries, std::span<const float> blocks, std::span<float> out) const override {
        const std::int64_t dim = queries.cols;
        for (std::size_t b = 0; b < out.size(); ++b) {
            const float* least = blocks.data() + static_cast<std::int64_t>(b) * 2 * dim;
            const float* largest = least + dim;
            for (std::int64_t g = 0; g < queries.rows; ++g) {
                const float* q = queries.row<float>(g);
                float bound = 0;
                for (std::int64_t c = 0; c < dim; ++c)
                    bound += std::max(q[c] * least[c], q[c] * largest[c]);
                out[b] = g == 0 ? bound : std::max(out[b], bound);
            }
        }
    }
    [[nodiscard]] Reading reading(const ModelInfo&, int layer, std::int64_t seen,
                                  std::uint64_t token_bytes) const override {
        constexpr std::int64_t kLeastPages = 3;
        return {.tokens = std::max(budget_.tokens(seen, token_bytes), kLeastPages * options_.page),
                .all = layer < options_.dense_layers};
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_quest_policy();
std::unique_ptr<KvPolicyType> make_quest_policy() {
    return std::make_unique<LeafOf<KvPolicy, QuestPolicy>>();
}

}  // namespace thimble
