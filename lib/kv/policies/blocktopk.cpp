// SPDX-License-Identifier: Apache-2.0
// Block top-k attention, "Kinetics: Rethinking Test-Time Scaling Laws" (2025): nothing is dropped,
// but after the prompt a query reads only the blocks whose mean key it is most alike, the first
// tokens, and the newest block.
// differs: heads of a group read one set of blocks, by the mean of their products.
#include <algorithm>

#include "kv/scoring.h"

namespace thimble {
namespace {

class BlockTopKPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "blocktopk";
    static constexpr std::string_view kHelp =
        "keeps every key, but a query reads only the blocks whose mean key is most alike: saves "
        "time, not memory";
    struct Options {
        std::string budget = "1024";
        std::int64_t block = 16;
        std::int64_t sink = 4;
        std::int64_t recent = 0;
        std::int64_t dense_layers = 1;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "block", .help = "tokens of a block", .least = 1, .most = 1024},
                     block);
            v.option({.name = "sink", .help = "first tokens that are always read", .least = 0},
                     sink);
            v.option({.name = "recent",
                      .help = "last tokens that are always read; the newest block always is",
                      .least = 0},
                     recent);
            v.option(
                {.name = "dense_layers", .help = "first layers, which read everything", .least = 0},
                dense_layers);
        }
    };

    BlockTopKPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.block_tokens = options_.block, .block_vectors = 1};
    }
    [[nodiscard]] unsigned duties() const override { return kBlocks; }

    void describe(View keys, float* out) const override {
        std::fill_n(out, keys.cols, 0.0f);
        for (std::int64_t r = 0; r < keys.rows; ++r) {
            for (std::int64_t c = 0; c < keys.cols; ++c) out[c] += keys.row<float>(r)[c];
        }
        for (std::int64_t c = 0; c < keys.cols; ++c) out[c] /= static_cast<float>(keys.rows);
    }
    void rate(View queries, std::span<const float> blocks, std::span<float> out) const override {
        const std::int64_t dim = queries.cols;
        for (std::size_t b = 0; b < out.size(); ++b) {
            const float* mean = blocks.data() + static_cast<std::int64_t>(b) * dim;
            float sum = 0;  // over the group: ranks as the mean does
            for (std::int64_t g = 0; g < queries.rows; ++g) {
                const float* q = queries.row<float>(g);
                for (std::int64_t c = 0; c < dim; ++c) sum += q[c] * mean[c];
            }
            out[b] = sum;
        }
    }
    [[nodiscard]] Reading reading(const ModelInfo&, int layer, std::int64_t seen,
                                  std::uint64_t token_bytes) const override {
        return {.tokens = std::max(budget_.tokens(seen, token_bytes), options_.block),
                .sinks = options_.sink,
                .recent = options_.recent,
                .all = layer < options_.dense_layers};
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_blocktopk_policy();
std::unique_ptr<KvPolicyType> make_blocktopk_policy() {
    return std::make_unique<LeafOf<KvPolicy, BlockTopKPolicy>>();
}

}  // namespace thimble
