// SPDX-License-Identifier: Apache-2.0
#include "eval/retrieval_heads.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "eval/metrics.h"
#include "kernels/layout/rng.h"
#include "kv/chain.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kAnswerTokens = 12;
constexpr std::int64_t kFewRecent = 8, kFewOthers = 24;

struct Needle {
    std::vector<Token> sentence, question, answer;
};

Needle make_needle(const Tokenizer& tokenizer, std::uint64_t number) {
    static constexpr std::array kPlaces{"harbour", "museum", "library", "castle",
                                        "station", "garden", "theatre", "market"};
    const std::string place = kPlaces[number % kPlaces.size()];
    const std::string code = std::to_string(10000 + philox(7, number).v[0] % 90000);
    const EncodeText plain{.add_special = false};
    Needle needle;
    needle.sentence =
        tokenizer.encode("\nThe secret code of the " + place + " is " + code + ".\n", plain);
    needle.question = tokenizer.encode("\nQuestion: What is the secret code of the " + place +
                                           "?\nAnswer: The secret code of the " + place + " is",
                                       plain);
    needle.answer = tokenizer.encode(" " + code, plain);
    return needle;
}

// What the watcher adds up: for the row at hand, then for rows whose token belongs to the needle.
class Watch {
  public:
    Watch(std::size_t layers, std::int64_t heads)
        : row_(layers * static_cast<std::size_t>(heads)),
          mass_(row_.size()),
          loss_(layers),
          before_(layers),
          heads_(heads) {}

    void begin(std::int64_t first, std::int64_t count) {
        first_ = first, count_ = count;
        std::fill(mass_.begin(), mass_.end(), 0.0);
        std::fill(loss_.begin(), loss_.end(), 0.0);
        for (auto& row : before_) row.clear();
    }
    void see(const KvLayerView& view, const KvRows& rows) {
        ops::softmax_rows(view.exec(), rows.logits, {});
        for (std::int64_t g = 0; g < rows.logits.rows; ++g) {
            double sum = 0;
            for (std::size_t i = 0; i < rows.keys.size(); ++i) {
                if (rows.keys[i] >= first_ && rows.keys[i] < first_ + count_)
                    sum += static_cast<double>(rows.logits.row<float>(g)[i]);
            }
            row_[static_cast<std::size_t>(rows.layer * heads_ + rows.kv_head * rows.group + g)] =
                sum;
        }
        if (rows.kv_head == 0) error_ = whole_ = 0, mean_.assign(rows.keys.size(), 0.0);
        add_loss(view, rows);
        if (rows.kv_head + 1 < view.shape().kv_heads) return;
        const auto layer = static_cast<std::size_t>(rows.layer);
        if (!before_[layer].empty()) loss_[layer] += std::sqrt(error_) / (std::sqrt(whole_) + 1e-5);
        before_[layer] = mean_;
    }
    void token_of_needle() {
        for (std::size_t i = 0; i < row_.size(); ++i) mass_[i] += row_[i];
    }
    [[nodiscard]] const std::vector<double>& mass() const { return mass_; }
    [[nodiscard]] const std::vector<double>& loss() const { return loss_; }

  private:
    // Slots are in the order of positions: nothing is dropped in these runs.
    void add_loss(const KvLayerView& view, const KvRows& rows) {
        const auto& before = before_[static_cast<std::size_t>(rows.layer)];
        const auto n = static_cast<std::int64_t>(rows.keys.size());
        std::vector<bool> few(rows.keys.size(), n <= kFewRecent + kFewOthers);
        if (!before.empty() && !few.front()) {
            std::vector<std::int64_t> order(static_cast<std::size_t>(n - kFewRecent));
            std::iota(order.begin(), order.end(), std::int64_t{0});
            std::partial_sort(order.begin(), order.begin() + kFewOthers, order.end(),
                              [&](std::int64_t a, std::int64_t b) {
                                  return before[static_cast<std::size_t>(a)] >
                                         before[static_cast<std::size_t>(b)];
                              });
            for (std::int64_t i = 0; i < kFewOthers; ++i)
                few[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = true;
            std::fill(few.end() - kFewRecent, few.end(), true);
        }
        std::pmr::vector<float> memory(&view.memory());
        const View values = view.values(rows.kv_head, memory);
        const auto dim = static_cast<std::size_t>(values.cols);
        for (std::int64_t g = 0; g < rows.logits.rows; ++g) {
            const float* p = rows.logits.row<float>(g);
            std::vector<double> all(dim), some(dim);
            double part = 0;
            for (std::int64_t i = 0; i < n; ++i) {
                const auto weight = static_cast<double>(p[i]);
                mean_[static_cast<std::size_t>(i)] += weight;
                const bool in = few[static_cast<std::size_t>(i)];
                if (in) part += weight;
                for (std::size_t c = 0; c < dim; ++c) {
                    const double x = weight * static_cast<double>(values.row<float>(i)[c]);
                    all[c] += x;
                    if (in) some[c] += x;
                }
            }
            for (std::size_t c = 0; c < dim; ++c) {
                const double d = all[c] - some[c] / std::max(part, 1e-30);
                error_ += d * d, whole_ += all[c] * all[c];
            }
        }
    }

    std::vector<double> row_, mass_, loss_;
    std::vector<std::vector<double>> before_;  // of each layer: attention of the row before
    std::vector<double> mean_;
    double error_ = 0, whole_ = 0;
    std::int64_t heads_, first_ = 0, count_ = 0;
};

// The share of the answer that was given.
double answer_needle(Runner& runner, const Tokenizer& tokenizer, std::span<const Token> prompt,
                     const Needle& needle, Watch& watch) {
    KvEngine& kv = runner.kv();
    const SeqId seq = kv.open();
    Token next = -1;
    const Runner::LogitsSink sink = [&](std::int64_t, View logits) { next = most_likely(logits); };
    std::vector<Token> wanted = needle.answer;
    runner.prompt(seq, prompt, 1, sink);
    for (std::int64_t i = 0; i < kAnswerTokens && !tokenizer.is_end(next); ++i) {
        // The row that gave this token: the prompt's last one is not shown.
        const auto& all = needle.answer;
        if (i > 0 && std::find(all.begin(), all.end(), next) != all.end()) watch.token_of_needle();
        if (const auto found = std::find(wanted.begin(), wanted.end(), next); found != wanted.end())
            wanted.erase(found);
        const Token token = next;
        runner.forward(seq, {&token, 1}, 1, sink);
    }
    kv.close(seq);
    return 1 - static_cast<double>(wanted.size()) / static_cast<double>(needle.answer.size());
}

HeadProfile profile_of(const ModelSpec& spec, const std::vector<double>& mass,
                       const std::vector<double>& loss, std::int64_t kept) {
    HeadProfile out;
    out.query_heads = spec.attention.front().shape.heads;
    const double sum = std::accumulate(loss.begin(), loss.end(), 0.0);
    for (std::size_t layer = 0; layer < spec.attention.size(); ++layer) {
        auto& heads = out.heads.emplace_back();
        out.layer_score.push_back(sum > 0 ? loss[layer] / sum : 0);
        if (!KvChain::governs(spec.attention[layer].shape)) continue;
        heads.resize(static_cast<std::size_t>(out.query_heads));
        std::iota(heads.begin(), heads.end(), std::int64_t{0});
        const double* of = mass.data() + layer * heads.size();
        std::stable_sort(heads.begin(), heads.end(),
                         [&](std::int64_t a, std::int64_t b) { return of[a] > of[b]; });
        heads.resize(std::min(heads.size(), static_cast<std::size_t>(kept)));
    }
    return out;
}

}  // namespace

void RetrievalOptions::visit(OptionVisitor& v) {
    v.option({.name = "needle-tokens",
              .help = "tokens of the longest text",
              .value = "N",
              .least = 128,
              .most = 1 << 20},
             tokens);
    v.option({.name = "needle-lengths",
              .help = "lengths of texts, evenly up to that",
              .value = "N",
              .least = 1,
              .most = 1000},
             lengths);
    v.option({.name = "needle-depths",
              .help = "places of the needle in each",
              .value = "N",
              .least = 1,
              .most = 1000},
             depths);
    v.option(
        {.name = "heads", .help = "kept of each layer", .value = "N", .least = 1, .most = 1024},
        heads);
}

RetrievalResult find_retrieval_heads(Runner& runner, const Tokenizer& tokenizer,
                                     std::span<const Token> filler, const RetrievalOptions& options,
                                     const RetrievalProgress& progress) {
    const ModelSpec& spec = runner.spec();
    const std::int64_t heads = spec.attention.front().shape.heads;
    for (const AttentionSpec& layer : spec.attention) {
        if (layer.shape.heads == heads) continue;
        throw Error(Exit::kUsage, "--model",
                    "layers differ in their heads: there is no profile of such a model",
                    "use a model that was pruned by as many heads in each layer");
    }
    Watch watch(spec.attention.size(), heads);
    std::vector<double> mass(spec.attention.size() * static_cast<std::size_t>(heads));
    std::vector<double> loss(spec.attention.size());
    RetrievalResult result;
    runner.kv().watch([&](const KvLayerView& view, const KvRows& rows) { watch.see(view, rows); });
    const std::vector<Token> begin = tokenizer.encode("", {});  // BOS where the model wants one
    for (std::int64_t length = 1; length <= options.lengths; ++length) {
        for (std::int64_t depth = 0; depth < options.depths; ++depth) {
            const Needle needle =
                make_needle(tokenizer, static_cast<std::uint64_t>(std::ssize(result.runs)));
            const std::int64_t tokens = options.tokens * length / options.lengths;
            const std::int64_t around = std::clamp<std::int64_t>(
                tokens - std::ssize(needle.sentence) - std::ssize(needle.question) -
                    std::ssize(begin) - kAnswerTokens,
                0, std::ssize(filler));
            const double place = options.depths > 1 ? static_cast<double>(depth) /
                                                          static_cast<double>(options.depths - 1)
                                                    : 0.5;
            const auto before = static_cast<std::int64_t>(place * static_cast<double>(around));
            std::vector<Token> prompt = begin;
            const auto append = [&](std::span<const Token> some) {
                prompt.insert(prompt.end(), some.begin(), some.end());
            };
            append(filler.first(static_cast<std::size_t>(before)));
            watch.begin(std::ssize(prompt), std::ssize(needle.sentence));
            append(needle.sentence);
            append(filler.subspan(static_cast<std::size_t>(before),
                                  static_cast<std::size_t>(around - before)));
            append(needle.question);
            const double recall = answer_needle(runner, tokenizer, prompt, needle, watch);
            result.runs.push_back({std::ssize(prompt), place, recall});
            progress(std::ssize(result.runs), options.lengths * options.depths);
            if (recall <= 0.5) continue;
            ++result.counted;
            for (std::size_t i = 0; i < mass.size(); ++i) mass[i] += watch.mass()[i];
            for (std::size_t i = 0; i < loss.size(); ++i) loss[i] += watch.loss()[i];
        }
    }
    runner.kv().watch({});
    if (result.counted == 0) {
        throw Error(Exit::kFailure, "--needle-tokens",
                    "the model answered none of " + std::to_string(std::ssize(result.runs)) +
                        " questions about a code in its text",
                    "try shorter texts: --needle-tokens 512");
    }
    result.profile = profile_of(spec, mass, loss, options.heads);
    return result;
}

}  // namespace thimble::eval
