// SPDX-License-Identifier: Apache-2.0
#include "prune/cut.h"

#include <algorithm>
#include <numeric>

#include "model/config.h"

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
    std::vector<LayerSizes> sizes;
    for (const std::int64_t layer : cut.layers) {
        const LayerCut& of = cut.of[static_cast<std::size_t>(layer)];
        LayerSizes left = config.sizes_of(layer);
        if (of.channels) left.ffn = std::ssize(*of.channels);
        if (of.heads) left.heads = std::ssize(*of.heads);
        if (of.kv_heads) left.kv_heads = std::ssize(*of.kv_heads);
        sizes.push_back(left);
    }
    set_sizes(out, std::move(sizes));
    if (cut.tokens) out.vocab = std::ssize(*cut.tokens);
    return out;
}

std::optional<Kept> kept_of(Extent side, std::int64_t layer, const Cut& cut,
                            const ModelConfig& config) {
    const LayerCut& of = cut.of[static_cast<std::size_t>(layer)];
    if (side == Extent::kQueries && of.heads) return widened(*of.heads, config.head_dim);
    if (side == Extent::kKeys && of.kv_heads) return widened(*of.kv_heads, config.head_dim);
    if (side == Extent::kFfn && of.channels) return of.channels;
    if (side == Extent::kTwoFfn && of.channels)
        return twice(*of.channels, config.sizes_of(layer).ffn);
    if (side == Extent::kVocab) return cut.tokens;
    if (side == Extent::kLayers && std::ssize(cut.layers) < config.layers) return cut.layers;
    return std::nullopt;
}

std::vector<std::int64_t> share_out(const std::vector<std::vector<double>>& values,
                                    std::int64_t count, const std::vector<std::int64_t>& least) {
    struct Part {
        double value = 0;
        std::size_t layer = 0;
    };
    std::vector<Part> parts;
    std::vector<std::int64_t> kept;
    for (std::size_t layer = 0; layer < values.size(); ++layer) {
        const std::vector<double>& of = values[layer];
        const double sum = std::accumulate(of.begin(), of.end(), 0.0);
        kept.push_back(std::min(least[layer], std::ssize(of)));
        count -= kept.back();
        for (auto i = static_cast<std::size_t>(kept.back()); i < of.size(); ++i)
            parts.push_back({sum > 0 ? of[i] / sum : 0, layer});
    }
    std::stable_sort(parts.begin(), parts.end(),
                     [](const Part& a, const Part& b) { return a.value > b.value; });
    const std::int64_t most = std::clamp<std::int64_t>(count, 0, std::ssize(parts));
    for (std::int64_t i = 0; i < most; ++i) ++kept[parts[static_cast<std::size_t>(i)].layer];
    return kept;
}

std::vector<std::int64_t> spread(const std::vector<std::int64_t>& parts, std::int64_t count) {
    const std::int64_t all = std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
    std::vector<std::int64_t> kept;
    for (const std::int64_t n : parts) kept.push_back(n * count / std::max<std::int64_t>(all, 1));
    std::int64_t left = count - std::accumulate(kept.begin(), kept.end(), std::int64_t{0});
    for (std::size_t layer = 0; layer < parts.size() && left > 0; ++layer) {
        if (kept[layer] == parts[layer]) continue;
        ++kept[layer];
        --left;
    }
    if (kept.size() > 1 && kept.front() == kept.back() && kept.front() < parts.front() &&
        kept.back() > 1) {
        ++kept.front();
        --kept.back();
    }
    return kept;
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
