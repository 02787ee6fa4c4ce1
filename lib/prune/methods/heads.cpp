// SPDX-License-Identifier: Apache-2.0
// Drops attention heads: those whose output adds least to the layer's, by the mean square of what
// their channels add. As many go in each layer. Where several query heads share a key-value head,
// either the shared head goes with all of them, or as many query heads of each.
// "Are Sixteen Heads Really Better than One?" (2019) for the question; the score is that of
// channels.cpp, summed over a head.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "prune/refit_pruner.h"

namespace thimble::prune {
namespace {

class Heads final : public RefitPruner {
  public:
    static constexpr const char* kName = "heads";
    static constexpr const char* kHelp = "drop attention heads, as many in each layer";
    struct Options {
        double ratio = 0.25;
        bool refit = true;
        std::string unit = "group";
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
        }
    };
    Heads(const Options& options, std::string_view where)
        : RefitPruner(options.ratio > 0, options.refit), options_(options), where_(where) {}

    [[nodiscard]] Cut most(const ModelConfig& config) const override {
        const std::vector<double> equal(static_cast<std::size_t>(config.heads));
        Cut cut = whole(config);
        if (config.heads == 0) refuse();
        if (options_.ratio > 0 && left(config) == units(config)) {
            throw Error(
                Exit::kUsage, where_,
                "of " + std::to_string(units(config)) +
                    (by_group() ? " key-value heads" : " query heads of a group") +
                    " none would go",
                "give a larger ratio, or unit=" + std::string(by_group() ? "query" : "group"));
        }
        for (LayerCut& layer : cut.of) layer = choose(equal, config);
        return cut;
    }
    [[nodiscard]] Cut cut(Calibration& calibration) const override {
        const ModelConfig& config = calibration.source().config();
        Cut cut = whole(config);
        if (config.heads == 0) refuse();
        if (left(config) == units(config)) return cut;
        for (const SourceTensor& tensor : calibration.source().tensors()) {
            if (!tensor.is_matrix || tensor.rule->cols != Extent::kQueries) continue;
            const std::vector<double> energy = calibration.column_energy(tensor);
            std::vector<double> scores(static_cast<std::size_t>(config.heads));
            for (std::size_t c = 0; c < energy.size(); ++c)
                scores[c / static_cast<std::size_t>(config.head_dim)] += energy[c];
            cut.of[static_cast<std::size_t>(tensor.layer)] = choose(scores, config);
        }
        return cut;
    }

  private:
    [[noreturn]] void refuse() const {
        throw Error(Exit::kUsage, where_, "the model has no attention heads");
    }
    [[nodiscard]] bool by_group() const { return options_.unit == "group"; }
    // Of which a share goes: key-value heads, or the query heads of one.
    [[nodiscard]] std::int64_t units(const ModelConfig& config) const {
        return by_group() ? config.kv_heads : config.heads / config.kv_heads;
    }
    [[nodiscard]] std::int64_t left(const ModelConfig& config) const {
        const std::int64_t all = units(config);
        const auto gone = std::llround(options_.ratio * static_cast<double>(all));
        return std::max<std::int64_t>(all - gone, 1);
    }

    // From the scores of the query heads.
    [[nodiscard]] LayerCut choose(std::span<const double> scores, const ModelConfig& config) const {
        const std::int64_t of_group = config.heads / config.kv_heads, count = left(config);
        LayerCut cut;
        if (count == units(config)) return cut;
        cut.heads.emplace();
        if (by_group()) {
            std::vector<double> sums;
            for (std::int64_t g = 0; g < config.kv_heads; ++g) {
                const auto group = scores.subspan(static_cast<std::size_t>(g * of_group),
                                                  static_cast<std::size_t>(of_group));
                sums.push_back(std::accumulate(group.begin(), group.end(), 0.0));
            }
            cut.kv_heads = largest(sums, count);
            for (const std::int64_t g : *cut.kv_heads) {
                for (std::int64_t h = 0; h < of_group; ++h) cut.heads->push_back(g * of_group + h);
            }
            return cut;
        }
        for (std::int64_t g = 0; g < config.kv_heads; ++g) {
            const auto group = scores.subspan(static_cast<std::size_t>(g * of_group),
                                              static_cast<std::size_t>(of_group));
            for (const std::int64_t h : largest(group, count))
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
