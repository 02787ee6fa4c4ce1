// SPDX-License-Identifier: Apache-2.0
#include "prune/cut.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace thimble::prune {
namespace {

Kept all_of(std::int64_t count) {
    Kept kept(static_cast<std::size_t>(count));
    std::iota(kept.begin(), kept.end(), 0);
    return kept;
}

// Each kept place stands for `width` elements.
Kept widened(const Kept& kept, std::int64_t width) {
    Kept out;
    out.reserve(kept.size() * static_cast<std::size_t>(width));
    for (const std::int64_t place : kept) {
        for (std::int64_t i = 0; i < width; ++i) out.push_back(place * width + i);
    }
    return out;
}

// The same twice, the second time `distance` further on.
Kept twice(Kept kept, std::int64_t distance) {
    const std::size_t count = kept.size();
    for (std::size_t i = 0; i < count; ++i) kept.push_back(kept[i] + distance);
    return kept;
}

// How many stay in each kept layer.
std::int64_t common_count(const Cut& cut, std::optional<Kept> LayerCut::*part, std::int64_t all) {
    std::optional<std::int64_t> count;
    for (const std::int64_t layer : cut.layers) {
        const auto& kept = cut.of[static_cast<std::size_t>(layer)].*part;
        const std::int64_t here = kept ? std::ssize(*kept) : all;
        if (count && *count != here)
            throw Error(Exit::kFailure, "prune", "layers differ in what is left of them");
        count = here;
    }
    return count.value_or(all);
}

}  // namespace

Cut whole(const ModelConfig& config) {
    return {all_of(config.layers), std::vector<LayerCut>(static_cast<std::size_t>(config.layers)),
            std::nullopt};
}

ModelConfig config_after(const Cut& cut, const ModelConfig& config) {
    ModelConfig out = config;
    out.layers = std::ssize(cut.layers);
    out.windowed.clear();
    for (const std::int64_t layer : cut.layers)
        out.windowed.push_back(config.windowed[static_cast<std::size_t>(layer)]);
    out.heads = common_count(cut, &LayerCut::heads, config.heads);
    out.kv_heads = common_count(cut, &LayerCut::kv_heads, config.kv_heads);
    out.ffn = common_count(cut, &LayerCut::channels, config.ffn);
    if (cut.tokens) out.vocab = std::ssize(*cut.tokens);
    return out;
}

std::optional<Kept> kept_of(Extent side, std::int64_t layer, const Cut& cut,
                            const ModelConfig& config) {
    const LayerCut& of = cut.of[static_cast<std::size_t>(layer)];
    if (side == Extent::kQueries && of.heads) return widened(*of.heads, config.head_dim);
    if (side == Extent::kKeys && of.kv_heads) return widened(*of.kv_heads, config.head_dim);
    if (side == Extent::kFfn && of.channels) return of.channels;
    if (side == Extent::kTwoFfn && of.channels) return twice(*of.channels, config.ffn);
    if (side == Extent::kVocab) return cut.tokens;
    if (side == Extent::kLayers && std::ssize(cut.layers) < config.layers) return cut.layers;
    return std::nullopt;
}

Kept largest(std::span<const double> scores, std::int64_t count) {
    Kept order = all_of(std::ssize(scores));
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(count));
    std::sort(order.begin(), order.end());
    return order;
}

}  // namespace thimble::prune
