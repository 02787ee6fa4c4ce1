// SPDX-License-Identifier: Apache-2.0
// "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction" (2025): keeps what the
// model needs to repeat its prompt. The prompt is repeated piece by piece after its end, and a key
// is worth the largest probability that any of these rows gives it, the softmax taken over the
// first tokens, the piece's keys and the repetition so far. One budget for all heads and layers.
// differs: heads of a group share one set, by the largest of their probabilities.
#include <algorithm>
#include <limits>

#include "kv/scoring.h"

namespace thimble {
namespace {

class KvZipPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "kvzip";
    static constexpr std::string_view kHelp =
        "keeps what the model needs to repeat its prompt; costs about two more prompts";
    struct Options {
        std::string budget = "30%";
        std::int64_t chunk = 2048;
        std::int64_t sink = 4;
        void visit(OptionVisitor& v) {
            v.option({.name = "budget",
                      .help = "kept of a head and layer on average: tokens, 25% of those seen, or "
                              "64MiB in all",
                      .value = "SIZE"},
                     budget);
            v.option({.name = "chunk", .help = "tokens that are repeated at a time", .least = 16},
                     chunk);
            v.option({.name = "sink", .help = "first tokens that are always kept", .least = 0},
                     sink);
        }
    };

    KvZipPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .waits_for_layers = true, .repeat_tokens = options_.chunk};
    }
    [[nodiscard]] unsigned duties() const override { return kScore; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.sinks = options_.sink};
    }

    void accumulate(const Exec& exec, const KvRows& rows, std::span<float> sums) const override {
        const std::size_t n = rows.keys.size();
        const auto in_piece = [&](std::size_t i) {
            return rows.keys[i] >= rows.repeat_first && rows.keys[i] < rows.repeat_end;
        };
        for (std::int64_t r = 0; r < rows.logits.rows; ++r) {
            float* logits = rows.logits.row<float>(r);
            for (std::size_t i = 0; i < n; ++i) {
                const bool counts = rows.keys[i] < options_.sink || in_piece(i) ||
                                    rows.keys[i] >= rows.repeat_prompt;
                if (!counts) logits[i] = -std::numeric_limits<float>::infinity();
            }
        }
        ops::softmax_rows(exec, rows.logits, {});
        for (std::int64_t r = 0; r < rows.logits.rows; ++r) {
            const float* p = rows.logits.row<float>(r);
            for (std::size_t i = 0; i < n; ++i) {
                if (in_piece(i)) sums[i] = std::max(sums[i], p[i]);
            }
        }
    }
    void score(const KvLayerView& view, KvScores& out) const override {
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            const auto sums = view.sums(head);
            auto& scores = out.heads[static_cast<std::size_t>(head)];
            scores.assign(sums.begin(), sums.end());
            for (std::size_t i = 0; i < scores.size(); ++i) {
                if (view.positions(head)[i] < options_.sink) scores[i] = 1;
            }
        }
    }

  private:
    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_kvzip_policy();
std::unique_ptr<KvPolicyType> make_kvzip_policy() {
    return std::make_unique<LeafOf<KvPolicy, KvZipPolicy>>();
}

}  // namespace thimble
