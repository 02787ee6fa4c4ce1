// SPDX-License-Identifier: Apache-2.0
// Drops attention heads: those whose output adds least to the layer's, by the mean square of what
// their channels add. As many go in each layer; or, with per-layer, as few as the layer needs, by
// the share of its own output that they add, as in channels.cpp. Where several query heads share a
// key-value head, either the shared head goes with all of them, or as many query heads of each.
// "Are Sixteen Heads Really Better than One?" (2019) for the question; the score is that of
// channels.cpp, summed over a head.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "prune/refit_pruner.h"

namespace thimble::prune {
namespace {

class Heads final : public RefitPruner {
  public:
    static constexpr const char* kName = "heads";
    static constexpr const char* kHelp = "drop attention heads";
    struct Options {
        double ratio = 0.25;
        bool refit = true;
        std::string unit = "group";
        SpreadOptions spread;
        void visit(OptionVisitor& v) {
            visit_refit(v, refit);
            v.option({.name = "ratio",
                      .help = "share to drop, rounded to whole heads; at least one stays",
                      .least = 0,
                      .most = 0.99},
                     ratio);
            v.option({.name = "unit",
                      .help = "group: key-value heads with their query heads; query: query heads "
                              "of each group",
                      .choices = {"group", "query"}},
                     unit);
            spread.visit(v);
        }
    };
    Heads(const Options& options, std::string_view where)
        : RefitPruner(options.ratio > 0, options.refit), options_(options), where_(where) {}

    [[nodiscard]] Cut most(const ModelConfig& config) const override {
        Cut cut = whole(config);
        const std::vector<std::int64_t> all = units(config);
        std::vector<std::int64_t> kept;
        for (const std::int64_t n : all) kept.push_back(left(n));
        if (options_.spread.per_layer) kept = spread(all, units_left(all));
        if (options_.ratio > 0 && kept == all) {
            throw Error(
                Exit::kUsage, where_,
                "of " + std::to_string(all.front()) +
                    (by_group() ? " key-value heads" : " query heads of a group") +
                    " none would go",
                "give a larger ratio, or unit=" + std::string(by_group() ? "query" : "group"));
        }
        for (std::int64_t layer = 0; layer < config.layers; ++layer) {
            const LayerSizes sizes = config.sizes_of(layer);
            const std::vector<double> equal(static_cast<std::size_t>(sizes.heads));
            const auto l = static_cast<std::size_t>(layer);
            cut.of[l] = choose(equal, sizes, kept[l]);
        }
        return cut;
    }
    [[nodiscard]] Cut cut(Calibration& calibration) const override {
        const ModelConfig& config = calibration.source().config();
        Cut cut = whole(config);
        const std::vector<std::int64_t> all = units(config);
        if (options_.ratio == 0) return cut;
        std::vector<std::vector<double>> scores(all.size()), values(all.size());
        for (const SourceTensor& tensor : calibration.source().tensors()) {
            if (!tensor.is_matrix || tensor.rule->cols != Extent::kQueries) continue;
            const std::vector<double> energy = calibration.column_energy(tensor);
            const auto layer = static_cast<std::size_t>(tensor.layer);
            const LayerSizes sizes = config.sizes_of(tensor.layer);
            scores[layer].resize(static_cast<std::size_t>(sizes.heads));
            for (std::size_t c = 0; c < energy.size(); ++c)
                scores[layer][c / static_cast<std::size_t>(config.head_dim)] += energy[c];
            values[layer] = by_units(scores[layer], sizes);
        }
        std::vector<std::int64_t> kept, least;
        for (const std::int64_t n : all) {
            kept.push_back(left(n));
            least.push_back(options_.spread.least_of(n));
        }
        if (options_.spread.per_layer) kept = share_out(values, units_left(all), least);
        for (std::size_t layer = 0; layer < all.size(); ++layer)
            cut.of[layer] = choose(scores[layer], config.sizes_of(static_cast<std::int64_t>(layer)),
                                   kept[layer]);
        return cut;
    }

  private:
    [[nodiscard]] bool by_group() const { return options_.unit == "group"; }
    // Of which a share goes, by layer: key-value heads, or the query heads of one.
    [[nodiscard]] std::vector<std::int64_t> units(const ModelConfig& config) const {
        if (config.heads == 0)
            throw Error(Exit::kUsage, where_, "the model has no attention heads");
        std::vector<std::int64_t> out;
        for (std::int64_t layer = 0; layer < config.layers; ++layer) {
            const LayerSizes sizes = config.sizes_of(layer);
            out.push_back(by_group() ? sizes.kv_heads : sizes.heads / sizes.kv_heads);
        }
        return out;
    }
    [[nodiscard]] std::int64_t left(std::int64_t all) const {
        const auto gone = std::llround(options_.ratio * static_cast<double>(all));
        return std::max<std::int64_t>(all - gone, 1);
    }
    [[nodiscard]] std::int64_t units_left(const std::vector<std::int64_t>& units) const {
        return left(std::accumulate(units.begin(), units.end(), std::int64_t{0}));
    }

    // The scores of the query heads that share a key-value head.
    static std::span<const double> group_of(std::span<const double> scores, const LayerSizes& sizes,
                                            std::int64_t group) {
        const std::int64_t count = sizes.heads / sizes.kv_heads;
        return scores.subspan(static_cast<std::size_t>(group * count),
                              static_cast<std::size_t>(count));
    }
    static std::vector<double> group_sums(std::span<const double> scores, const LayerSizes& sizes) {
        std::vector<double> sums;
        for (std::int64_t g = 0; g < sizes.kv_heads; ++g) {
            const auto group = group_of(scores, sizes, g);
            sums.push_back(std::accumulate(group.begin(), group.end(), 0.0));
        }
        return sums;
    }
    // What units add, the strongest first: the first of the query heads' is the strongest of each
    // group.
    [[nodiscard]] std::vector<double> by_units(std::span<const double> scores,
                                               const LayerSizes& sizes) const {
        std::vector<double> out;
        if (by_group()) {
            out = group_sums(scores, sizes);
            std::sort(out.begin(), out.end(), std::greater<>());
            return out;
        }
        out.resize(static_cast<std::size_t>(sizes.heads / sizes.kv_heads));
        for (std::int64_t g = 0; g < sizes.kv_heads; ++g) {
            const auto group = group_of(scores, sizes, g);
            std::vector<double> sorted(group.begin(), group.end());
            std::sort(sorted.begin(), sorted.end(), std::greater<>());
            for (std::size_t i = 0; i < sorted.size(); ++i) out[i] += sorted[i];
        }
        return out;
    }

    // `count` units, from the scores of the query heads.
    [[nodiscard]] LayerCut choose(std::span<const double> scores, const LayerSizes& sizes,
                                  std::int64_t count) const {
        const std::int64_t of_group = sizes.heads / sizes.kv_heads;
        LayerCut cut;
        if (count == (by_group() ? sizes.kv_heads : of_group)) return cut;
        cut.heads.emplace();
        if (by_group()) {
            cut.kv_heads = largest(group_sums(scores, sizes), count);
            for (const std::int64_t g : *cut.kv_heads) {
                for (std::int64_t h = 0; h < of_group; ++h) cut.heads->push_back(g * of_group + h);
            }
            return cut;
        }
        for (std::int64_t g = 0; g < sizes.kv_heads; ++g) {
            for (const std::int64_t h : largest(group_of(scores, sizes, g), count))
                cut.heads->push_back(g * of_group + h);
        }
        return cut;
    }

    Options options_;
    std::string where_;
};

}  // namespace

std::unique_ptr<PrunerType> make_heads_pruner() { return make_pruner_type<Heads>(); }

}  // namespace thimble::prune
