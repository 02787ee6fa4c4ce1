// SPDX-License-Identifier: Apache-2.0
#include "kv/chain.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace thimble {
namespace {

constexpr std::array kDuties = {KvPolicy::kFilter,   KvPolicy::kBand,  KvPolicy::kScore,
                                KvPolicy::kLayers,   KvPolicy::kHeads, KvPolicy::kMerge,
                                KvPolicy::kChannels, KvPolicy::kBlocks};

std::string_view name_of(KvPolicy::Duty duty) {
    switch (duty) {
        case KvPolicy::kFilter:
            return "filters the prompt";
        case KvPolicy::kBand:
            return "keeps a band";
        case KvPolicy::kScore:
            return "scores keys";
        case KvPolicy::kLayers:
            return "splits the budget over layers";
        case KvPolicy::kHeads:
            return "splits the budget over heads";
        case KvPolicy::kMerge:
            return "merges keys";
        case KvPolicy::kChannels:
            return "narrows keys";
        case KvPolicy::kBlocks:
            return "chooses what is read";
    }
    return "";
}

void join(KvNeeds& all, const KvNeeds& one) {
    if (one.positions != PositionMode::kOriginal) all.positions = one.positions;
    all.edits_prompt |= one.edits_prompt;
    all.edits_decode |= one.edits_decode;
    all.waits_for_layers |= one.waits_for_layers;
    all.prompt_sums |= one.prompt_sums;
    all.decode_sums |= one.decode_sums;
    all.moments |= one.moments;
    all.repeat_tokens = std::max(all.repeat_tokens, one.repeat_tokens);
    all.window_rows = std::max(all.window_rows, one.window_rows);
    all.block_tokens = std::max(all.block_tokens, one.block_tokens);
    all.block_vectors = std::max(all.block_vectors, one.block_vectors);
    all.edit_rows = std::max(all.edit_rows, one.edit_rows);
    all.edit_vectors = std::max(all.edit_vectors, one.edit_vectors);
    all.one_set |= one.one_set;
}

}  // namespace

KvChain KvChain::parse(std::string_view spec, std::string_view where) {
    KvChain chain;
    std::vector<std::string> names;
    for (std::string_view rest = spec;;) {
        const std::size_t plus = rest.find('+');
        const std::string_view link = rest.substr(0, plus);
        names.emplace_back(link.substr(0, link.find(':')));
        chain.links_.push_back(parse_link(link, where));
        join(chain.needs_, chain.links_.back()->needs());
        if (plus == std::string_view::npos) break;
        rest = rest.substr(plus + 1);
    }
    const auto refuse = [&](const std::string& what, const std::string& hint) {
        throw Error(Exit::kUsage, std::string(where), what, hint);
    };
    unsigned duties = 0;
    for (std::size_t i = 0; i < names.size(); ++i) {
        for (const KvPolicy::Duty duty : kDuties) {
            if ((chain.links_[i]->duties() & duties & duty) == 0) continue;
            refuse("'" + names[i] + "' " + std::string(name_of(duty)) +
                       " as another link of the chain does",
                   "leave one of them out");
        }
        duties |= chain.links_[i]->duties();
    }
    constexpr unsigned kWithScores = KvPolicy::kLayers | KvPolicy::kHeads | KvPolicy::kMerge;
    if ((duties & kWithScores) != 0 && (duties & KvPolicy::kScore) == 0)
        refuse("'" + std::string(spec) + "' has no link that scores keys",
               "put one before it: snapkv:budget=25%+" + std::string(spec));
    if ((duties & KvPolicy::kHeads) != 0 && chain.needs_.one_set)
        refuse("'" + std::string(spec) + "': all heads of a layer keep the same keys",
               "leave out the link that splits the budget over heads");
    constexpr unsigned kByLayer =
        KvPolicy::kLayers | KvPolicy::kHeads | KvPolicy::kMerge | KvPolicy::kChannels;
    if ((duties & kByLayer) != 0 && chain.needs_.waits_for_layers)
        refuse("'" + std::string(spec) + "': one budget is shared by all layers at once",
               "leave out the links after the one that scores");
    if ((duties & KvPolicy::kMerge) != 0 && (duties & KvPolicy::kChannels) != 0)
        refuse("'" + std::string(spec) + "': keys that lost channels cannot be merged",
               "leave one of the two out");
    if ((duties & KvPolicy::kBand) != 0 && names.size() > 1)
        refuse("'" + std::string(spec) + "': a band does not go with other links", "use it alone");
    if (names.size() > 1 && std::find(names.begin(), names.end(), "full") != names.end())
        refuse("'full' keeps everything and goes with no other link", "leave it out");
    return chain;
}

void KvChain::check(const ModelInfo& model, std::string_view where) const {
    for (const auto& link : links_) link->check(model, where);
}

std::vector<KvPolicy::Measured> KvChain::measured() const {
    std::vector<KvPolicy::Measured> out;
    for (const auto& link : links_) {
        KvPolicy::Measured one = link->measured();
        if (!one.model.empty()) out.push_back(std::move(one));
    }
    return out;
}

KvBand KvChain::band(const ModelInfo& model, int layer) const {
    const KvPolicy* link = of(KvPolicy::kBand);
    if (link == nullptr || !governs(model.layers[static_cast<std::size_t>(layer)])) return {};
    return link->band(model, layer);
}

const KvPolicy* KvChain::of(KvPolicy::Duty duty) const noexcept {
    for (const auto& link : links_) {
        if ((link->duties() & duty) != 0) return link.get();
    }
    return nullptr;
}

std::vector<std::int64_t> KvChain::layer_tokens(const ModelInfo& model, std::int64_t seen,
                                                std::uint64_t token_bytes,
                                                const KvBudget* other) const {
    std::vector<std::int64_t> all(model.layers.size());
    const KvPolicy* scorer = of(KvPolicy::kScore);
    const KvBudget* budget = other != nullptr || scorer == nullptr ? other : scorer->budget();
    if (scorer == nullptr || budget == nullptr) return all;
    KvLayerBudgets budgets{model, {}, budget->tokens(seen, token_bytes), seen, {}};
    for (std::size_t i = 0; i < all.size(); ++i) {
        if (governs(model.layers[i])) budgets.layers.push_back(static_cast<int>(i));
    }
    budgets.of.assign(budgets.layers.size(), budgets.tokens);
    if (const KvPolicy* planner = of(KvPolicy::kLayers)) planner->plan_layers(budgets);
    for (std::size_t i = 0; i < budgets.layers.size(); ++i)
        all[static_cast<std::size_t>(budgets.layers[i])] = std::max<std::int64_t>(budgets.of[i], 1);
    return all;
}

KvScores KvChain::score(const KvLayerView& view) const {
    KvScores scores;
    const KvPolicy* scorer = of(KvPolicy::kScore);
    for (int head = 0; scorer != nullptr && head < view.shape().kv_heads; ++head)
        scores.heads.emplace_back(view.positions(head).size(), 0.0f, &view.memory());
    if (scorer != nullptr) scorer->score(view, scores);
    for (auto& head : scores.heads) {  // so that all are in an order
        std::replace_if(
            head.begin(), head.end(), [](float x) { return std::isnan(x); },
            -std::numeric_limits<float>::infinity());
    }
    return scores;
}

KvEdit KvChain::edit(const KvLayerView& view, const KvScores& scores, std::int64_t tokens) const {
    KvEdit edit;
    const int heads = view.shape().kv_heads;
    std::int64_t most = 0;
    for (int head = 0; head < heads; ++head)
        most = std::max(most, std::ssize(view.positions(head)));
    const bool drops = tokens > 0 && tokens < most;
    const KvPolicy* narrowing = view.prompt() ? of(KvPolicy::kChannels) : nullptr;
    if (!drops && narrowing == nullptr) return edit;
    edit.heads.resize(static_cast<std::size_t>(heads));
    if (!drops) {
        for (int head = 0; head < heads; ++head) {
            auto& keep = edit.heads[static_cast<std::size_t>(head)].keep;
            keep.resize(view.positions(head).size());
            std::iota(keep.begin(), keep.end(), 0);
        }
    } else {
        const KvPolicy::Protected protect = of(KvPolicy::kScore)->protects(tokens);
        if (const KvPolicy* splitter = of(KvPolicy::kHeads)) {
            splitter->choose(view, scores, protect, tokens, edit);
        } else {
            for (int head = 0; head < heads; ++head) {
                const auto h = static_cast<std::size_t>(head);
                edit.heads[h].keep =
                    keep_best(view.positions(head), scores.heads[h], protect, view.seen(), tokens);
            }
        }
        if (const KvPolicy* merger = of(KvPolicy::kMerge)) merger->merge(view, scores, edit);
    }
    if (narrowing != nullptr) narrowing->narrow(view, edit);
    return edit;
}

std::int64_t KvChain::read_tokens(const ModelInfo& model, int layer, std::int64_t seen,
                                  std::uint64_t token_bytes) const {
    const AttentionLayer& shape = model.layers[static_cast<std::size_t>(layer)];
    if (!governs(shape)) return shape.window;
    if (const KvBand rule = band(model, layer); rule.bounded()) return rule.sinks + rule.window;
    if (const KvPolicy* reader = of(KvPolicy::kBlocks)) {
        const KvPolicy::Reading reading = reader->reading(model, layer, seen, token_bytes);
        return reading.all ? 0 : reading.tokens;
    }
    return layer_tokens(model, seen, token_bytes)[static_cast<std::size_t>(layer)];
}

namespace {

// 0 to n - 1 without the `going` worst; `better` orders them all. Looks through them once for each
// that goes: for few.
template <class Better>
std::vector<std::int32_t> without_worst(std::int64_t n, std::int64_t going, const Better& better) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    for (; going > 0; --going) {
        order.erase(std::max_element(order.begin(), order.end(), better));
    }
    return order;
}

}  // namespace

std::vector<std::int32_t> keep_best(std::span<const std::int32_t> positions,
                                    std::span<const float> scores, KvPolicy::Protected protect,
                                    std::int64_t seen, std::int64_t tokens) {
    const std::int64_t n = std::ssize(positions), going = std::max<std::int64_t>(n - tokens, 0);
    const auto rank = [&](std::int32_t slot) {  // recent ones before sinks before the rest
        const std::int64_t p = positions[static_cast<std::size_t>(slot)];
        return p >= seen - protect.recent ? 2 : p < protect.sinks ? 1 : 0;
    };
    const auto value = [&](std::int32_t slot) {
        const float x = scores[static_cast<std::size_t>(slot)];
        return std::isnan(x) ? -std::numeric_limits<float>::infinity() : x;
    };
    const auto better = [&](std::int32_t a, std::int32_t b) {
        const int rank_a = rank(a), rank_b = rank(b);
        if (rank_a != rank_b) return rank_a > rank_b;
        if (rank_a == 0 && value(a) != value(b)) return value(a) > value(b);
        return positions[static_cast<std::size_t>(a)] > positions[static_cast<std::size_t>(b)];
    };
    constexpr std::int64_t kFew = 4;  // an answer's token by token
    std::vector<std::int32_t> order = without_worst(n, going <= kFew ? going : 0, better);
    if (going <= kFew) return order;
    const auto count = static_cast<std::size_t>(n - going);
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                     better);
    order.resize(count);
    std::sort(order.begin(), order.end());
    return order;
}

}  // namespace thimble
