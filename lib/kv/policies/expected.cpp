// SPDX-License-Identifier: Apache-2.0
// "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
// Distribution" (2025): queries before rotation are taken as normal, with the mean and covariance
// that they had in the prompt (its first 4 tokens left out); R is the mean of the rotations of the
// next `future` positions. A key's expected weight is exp(s k.Rm + s^2/2 k.RCR'k), over the sum for
// all keys but the sinks; times the norm of its value it is the score.
// differs: a soft cap of the logits is left out of the expectation.
#include <algorithm>
#include <cmath>

#include "kv/scoring.h"

namespace thimble {
namespace {

// The mean of rotations: channels rotate in pairs (a, b), each by its own mean cosine and sine.
struct MeanRotation {
    struct Pair {
        std::size_t a, b;
        double cosine = 0, sine = 0;
    };
    std::vector<Pair> pairs;

    MeanRotation(const KvLayerView& view, std::int64_t future) {
        const ops::Rope& rope = view.rope();
        const std::int64_t dim = view.shape().head_dim;
        const bool halves = rope.style == ops::RopeStyle::kHalves;
        const auto count = static_cast<std::size_t>(rope.dims / 2);
        for (std::size_t i = 0; i < count; ++i)
            pairs.push_back({halves ? i : 2 * i, halves ? i + count : 2 * i + 1});
        // Rotated, ones at all a and zeros at all b become cosines and sines.
        constexpr std::int64_t kAtOnce = 16;
        const bool wide = view.exec().dtype() == DType::kF64;
        std::vector<double> memory(static_cast<std::size_t>(kAtOnce * dim));
        for (std::int64_t first = 0; first < future; first += kAtOnce) {
            const std::int64_t rows = std::min(kAtOnce, future - first);
            const View x = {memory.data(), view.exec().dtype(), rows, dim, dim};
            std::vector<std::int64_t> positions;
            std::fill(memory.begin(), memory.end(), 0.0);
            for (std::int64_t r = 0; r < rows; ++r) {
                positions.push_back(view.seen() + first + r);
                for (const Pair& p : pairs) {
                    if (wide) x.row<double>(r)[p.a] = 1;
                    if (!wide) x.row<float>(r)[p.a] = 1;
                }
            }
            ops::rope(view.exec(), rope, static_cast<int>(dim), positions, x);
            const auto at = [&](std::int64_t r, std::size_t c) {
                return wide ? x.row<double>(r)[c] : static_cast<double>(x.row<float>(r)[c]);
            };
            for (std::int64_t r = 0; r < rows; ++r) {
                for (Pair& p : pairs) p.cosine += at(r, p.a), p.sine += at(r, p.b);
            }
        }
        for (Pair& p : pairs)
            p.cosine /= static_cast<double>(future), p.sine /= static_cast<double>(future);
    }

    // A vector of channels `stride` apart.
    void apply(double* x, std::size_t stride) const {
        for (const Pair& p : pairs) {
            const double a = x[p.a * stride], b = x[p.b * stride];
            x[p.a * stride] = p.cosine * a - p.sine * b;
            x[p.b * stride] = p.sine * a + p.cosine * b;
        }
    }
};

class ExpectedPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "expected";
    static constexpr std::string_view kHelp =
        "at the end of the prompt keeps what later queries are expected to attend to";
    struct Options {
        std::string budget = "50%";
        std::int64_t future = 512;
        std::int64_t sink = 4;
        bool covariance = true;
        bool value_norms = true;
        double epsilon = 0;
        void visit(OptionVisitor& v) {
            visit_kv_budget(v, budget);
            v.option({.name = "future",
                      .help = "positions of later queries that are averaged",
                      .least = 1,
                      .most = 65536},
                     future);
            v.option({.name = "sink", .help = "first tokens that are always kept", .least = 0},
                     sink);
            v.option({.name = "covariance", .help = "queries spread around their mean"},
                     covariance);
            v.option({.name = "value_norms", .help = "a score is weighted with its value's norm"},
                     value_norms);
            v.option({.name = "epsilon",
                      .help = "added to the expected weight before it meets the value's norm",
                      .least = 0},
                     epsilon);
        }
    };

    ExpectedPolicy(const Options& options, std::string_view where)
        : options_(options), budget_(KvBudget::parse(options.budget, where)) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.edits_prompt = true, .moments = true, .edit_vectors = 1};
    }
    [[nodiscard]] unsigned duties() const override { return kScore; }
    [[nodiscard]] const KvBudget* budget() const override { return &budget_; }
    [[nodiscard]] Protected protects(std::int64_t) const override {
        return {.sinks = options_.sink};
    }

    void score(const KvLayerView& view, KvScores& out) const override {
        const MeanRotation rotation(view, options_.future);
        const int kv_heads = view.shape().kv_heads, group = view.shape().heads / kv_heads;
        for (int head = 0; head < kv_heads; ++head) {
            auto& scores = out.heads[static_cast<std::size_t>(head)];
            std::pmr::vector<float> memory(&view.memory());
            {
                const View keys = view.keys(head, memory);
                for (int g = 0; g < group; ++g)
                    add_expected(view, rotation, head, head * group + g, keys, scores);
            }
            if (!options_.value_norms) continue;
            const View values = view.values(head, memory);
            for (std::int64_t i = 0; i < values.rows; ++i) {
                double sum = 0;
                for (std::int64_t c = 0; c < values.cols; ++c) {
                    const auto x = static_cast<double>(values.row<float>(i)[c]);
                    sum += x * x;
                }
                float& score = scores[static_cast<std::size_t>(i)];
                score = static_cast<float>((static_cast<double>(score) + options_.epsilon) *
                                           std::sqrt(sum));
            }
        }
    }

  private:
    // Adds the expected weights of one query head over the group.
    void add_expected(const KvLayerView& view, const MeanRotation& rotation, int kv_head, int head,
                      const View& keys, std::pmr::vector<float>& scores) const {
        const auto dim = static_cast<std::size_t>(keys.cols);
        const KvMoments moments = view.moments(head);
        std::vector<double> mean(moments.mean.begin(), moments.mean.end());
        std::vector<double> covariance(moments.covariance.begin(), moments.covariance.end());
        rotation.apply(mean.data(), 1);
        for (std::size_t i = 0; i < dim; ++i) rotation.apply(covariance.data() + i, dim);
        for (std::size_t i = 0; i < dim; ++i) rotation.apply(covariance.data() + i * dim, 1);
        std::pmr::vector<float> logits(static_cast<std::size_t>(keys.rows), &view.memory());
        const double scale = view.scale();
        view.exec().team->run(keys.rows, 8, [&](std::int64_t begin, std::int64_t end) {
            std::vector<double> spread(dim);
            for (std::int64_t r = begin; r < end; ++r) {
                const float* key = keys.row<float>(r);
                double toward = 0, around = 0;
                std::fill(spread.begin(), spread.end(), 0.0);
                for (std::size_t i = 0; i < dim; ++i) {
                    const auto k = static_cast<double>(key[i]);
                    toward += k * mean[i];
                    if (!options_.covariance) continue;
                    const double* row = covariance.data() + i * dim;
                    for (std::size_t j = 0; j < dim; ++j) spread[j] += k * row[j];
                }
                for (std::size_t i = 0; i < dim; ++i)
                    around += static_cast<double>(key[i]) * spread[i];
                logits[static_cast<std::size_t>(r)] =
                    static_cast<float>(scale * toward + scale * scale / 2 * around);
            }
        });
        const auto positions = view.positions(kv_head);
        for (std::size_t i = 0; i < logits.size(); ++i) {
            if (positions[i] < options_.sink) logits[i] = -std::numeric_limits<float>::infinity();
        }
        ops::softmax_rows(view.exec(), {logits.data(), DType::kF32, 1, keys.rows, keys.rows}, {});
        const int group = view.shape().heads / view.shape().kv_heads;
        for (std::size_t i = 0; i < logits.size(); ++i)
            scores[i] += logits[i] / static_cast<float>(group);
    }

    Options options_;
    KvBudget budget_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_expected_policy();
std::unique_ptr<KvPolicyType> make_expected_policy() {
    return std::make_unique<LeafOf<KvPolicy, ExpectedPolicy>>();
}

}  // namespace thimble
