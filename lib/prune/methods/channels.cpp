// SPDX-License-Identifier: Apache-2.0
// Drops channels of every layer's feed-forward block: those whose products add least to its output,
// by the mean square of what each alone adds. As many go in each layer, so that the result is an
// ordinary model; or, with per-layer, as few as the layer needs: groups of `multiple` channels of
// all layers are ranked by the share of their own layer's output that they add, which makes layers
// comparable whatever the size of what passes through them.
// The score is that of "A Simple and Effective Pruning Approach for Large Language Models" (2024)
// summed over a column of the last matrix.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "prune/refit_pruner.h"

namespace thimble::prune {
namespace {

class Channels final : public RefitPruner {
  public:
    static constexpr const char* kName = "channels";
    static constexpr const char* kHelp = "drop feed-forward channels";
    struct Options {
        double ratio = 0.25;
        bool refit = true;
        std::int64_t multiple = 32;
        SpreadOptions spread;
        void visit(OptionVisitor& v) {
            visit_refit(v, refit);
            v.option({.name = "ratio", .help = "share to drop", .least = 0, .most = 0.99}, ratio);
            v.option({.name = "multiple",
                      .help = "what is left is rounded up to a multiple of this: formats store "
                              "blocks of 32, or of 256",
                      .least = 1,
                      .most = 4096},
                     multiple);
            spread.visit(v);
        }
    };
    Channels(const Options& options, std::string_view)
        : RefitPruner(options.ratio > 0, options.refit), options_(options) {}

    [[nodiscard]] Cut most(const ModelConfig& config) const override {
        Cut cut = whole(config);
        std::vector<std::int64_t> groups = groups_of(config);
        if (options_.spread.per_layer) groups = spread(groups, groups_left(groups));
        for (std::int64_t layer = 0; layer < config.layers; ++layer) {
            const auto l = static_cast<std::size_t>(layer);
            const std::int64_t width = config.sizes_of(layer).ffn;
            const std::int64_t count =
                options_.spread.per_layer ? channels(groups[l], width) : left(width);
            if (count == width) continue;
            cut.of[l].channels.emplace(static_cast<std::size_t>(count));
            std::iota(cut.of[l].channels->begin(), cut.of[l].channels->end(), 0);
        }
        return cut;
    }
    [[nodiscard]] Cut cut(Calibration& calibration) const override {
        const ModelConfig& config = calibration.source().config();
        Cut cut = whole(config);
        std::vector<std::vector<double>> energy(cut.of.size()), values(cut.of.size());
        for (const SourceTensor& tensor : calibration.source().tensors()) {
            if (!tensor.is_matrix || tensor.rule->cols != Extent::kFfn) continue;
            const auto layer = static_cast<std::size_t>(tensor.layer);
            if (!options_.spread.per_layer && left(tensor.cols()) == tensor.cols()) continue;
            energy[layer] = calibration.column_energy(tensor);
            values[layer] = by_groups(energy[layer]);
        }
        std::vector<std::int64_t> groups = groups_of(config), least;
        for (const std::int64_t n : groups) least.push_back(options_.spread.least_of(n));
        if (options_.spread.per_layer) groups = share_out(values, groups_left(groups), least);
        for (std::size_t layer = 0; layer < energy.size(); ++layer) {
            const auto width = std::ssize(energy[layer]);
            const std::int64_t count =
                options_.spread.per_layer ? channels(groups[layer], width) : left(width);
            if (count < width) cut.of[layer].channels = largest(energy[layer], count);
        }
        return cut;
    }

  private:
    [[nodiscard]] std::int64_t left(std::int64_t width) const {
        const auto exact = std::llround((1 - options_.ratio) * static_cast<double>(width));
        return channels(std::max<std::int64_t>(group_count(exact), 1), width);
    }
    [[nodiscard]] std::int64_t group_count(std::int64_t channels) const {
        return (channels + options_.multiple - 1) / options_.multiple;
    }
    [[nodiscard]] std::int64_t channels(std::int64_t groups, std::int64_t width) const {
        return std::min(width, groups * options_.multiple);
    }
    [[nodiscard]] std::vector<std::int64_t> groups_of(const ModelConfig& config) const {
        std::vector<std::int64_t> out;
        for (std::int64_t layer = 0; layer < config.layers; ++layer)
            out.push_back(group_count(config.sizes_of(layer).ffn));
        return out;
    }
    [[nodiscard]] std::int64_t groups_left(const std::vector<std::int64_t>& groups) const {
        const auto all = std::accumulate(groups.begin(), groups.end(), std::int64_t{0});
        return all - std::llround(options_.ratio * static_cast<double>(all));
    }
    // What groups of channels add, the strongest first.
    [[nodiscard]] std::vector<double> by_groups(std::vector<double> energy) const {
        std::sort(energy.begin(), energy.end(), std::greater<>());
        std::vector<double> out(static_cast<std::size_t>(group_count(std::ssize(energy))));
        for (std::size_t c = 0; c < energy.size(); ++c)
            out[c / static_cast<std::size_t>(options_.multiple)] += energy[c];
        return out;
    }

    Options options_;
};

}  // namespace

std::unique_ptr<PrunerType> make_channels_pruner() { return make_pruner_type<Channels>(); }

}  // namespace thimble::prune
