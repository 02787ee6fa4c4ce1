// SPDX-License-Identifier: Apache-2.0
// "ThinK: Thinner Key Cache by Query-Driven Pruning" (2024): when the prompt ends, each K/V head's
// keys lose the channels that matter least to the last queries: those with the smallest product of
// mean squares of queries (of the window and the group) and of the keys that are kept. The last
// `recent` tokens and those that follow stay whole.
// differs: what is kept of the channels is rounded up to a multiple of 16.
#include <algorithm>
#include <numeric>

#include "kv/scoring.h"

namespace thimble {
namespace {

class ThinkPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "think";
    static constexpr std::string_view kHelp =
        "narrows keys to the channels that matter to the prompt's last queries";
    struct Options {
        double ratio = 0.4;
        std::int64_t window = 32;
        std::int64_t recent = 32;
        void visit(OptionVisitor& v) {
            v.option(
                {.name = "ratio",
                 .help = "share of the channels that goes, rounded down so that 16, 32, ... stay",
                 .least = 0,
                 .most = 0.95},
                ratio);
            v.option({.name = "window",
                      .help = "last tokens of the prompt, whose queries choose",
                      .least = 1,
                      .most = 4096},
                     window);
            v.option({.name = "recent", .help = "last tokens whose keys stay whole", .least = 0},
                     recent);
        }
    };

    ThinkPolicy(const Options& options, std::string_view) : options_(options) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .window_rows = options_.window, .edit_vectors = 1};
    }
    [[nodiscard]] unsigned duties() const override { return kChannels; }

    [[nodiscard]] std::int64_t key_channels(std::int64_t head_dim) const override {
        const auto going =
            static_cast<std::int64_t>(options_.ratio * static_cast<double>(head_dim));
        return std::min(head_dim, (head_dim - going + 15) / 16 * 16);
    }

    [[nodiscard]] std::int64_t whole_tokens() const override { return options_.recent; }

    void narrow(const KvLayerView& view, KvEdit& edit) const override {
        const std::int64_t dim = view.shape().head_dim, kept = key_channels(dim);
        if (kept == dim) return;
        std::pmr::vector<float> window(&view.memory());
        const View queries = view.window_queries(options_.window, window);
        const int group = view.shape().heads / view.shape().kv_heads;
        for (int head = 0; head < view.shape().kv_heads; ++head) {
            std::vector<double> of_queries(static_cast<std::size_t>(dim)), of_keys(of_queries);
            for (std::int64_t r = 0; r < queries.rows; ++r) {
                for (std::int64_t i = 0; i < group * dim; ++i) {
                    const auto q =
                        static_cast<double>(queries.row<float>(r)[head * group * dim + i]);
                    of_queries[static_cast<std::size_t>(i % dim)] += q * q;
                }
            }
            std::pmr::vector<float> memory(&view.memory());
            const View keys = view.keys(head, memory);
            for (const std::int32_t slot : edit.heads[static_cast<std::size_t>(head)].keep) {
                for (std::int64_t i = 0; i < dim; ++i) {
                    const auto k = static_cast<double>(keys.row<float>(slot)[i]);
                    of_keys[static_cast<std::size_t>(i)] += k * k;
                }
            }
            std::vector<std::int16_t> channels(static_cast<std::size_t>(dim));
            std::iota(channels.begin(), channels.end(), std::int16_t{0});
            std::stable_sort(channels.begin(), channels.end(), [&](std::int16_t a, std::int16_t b) {
                const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
                return of_queries[i] * of_keys[i] > of_queries[j] * of_keys[j];
            });
            channels.resize(static_cast<std::size_t>(kept));
            std::sort(channels.begin(), channels.end());
            edit.channels.push_back(std::move(channels));
        }
        edit.narrow_before = view.seen() - whole_tokens();
    }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_think_policy();
std::unique_ptr<KvPolicyType> make_think_policy() {
    return std::make_unique<LeafOf<KvPolicy, ThinkPolicy>>();
}

}  // namespace thimble
