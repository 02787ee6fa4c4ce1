// SPDX-License-Identifier: Apache-2.0
// Drops channels of every layer's feed-forward block: those whose products add least to its output,
// by the mean square of what each alone adds. As many go in each layer, so that the result is an
// ordinary model.
// The score is that of "A Simple and Effective Pruning Approach for Large Language Models" (2024)
// summed over a column of the last matrix.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "prune/refit_pruner.h"

namespace thimble::prune {
namespace {

class Channels final : public RefitPruner {
  public:
    static constexpr const char* kName = "channels";
    static constexpr const char* kHelp = "drop feed-forward channels, as many in each layer";
    struct Options {
        double ratio = 0.25;
        bool refit = true;
        std::int64_t multiple = 32;
        void visit(OptionVisitor& v) {
            visit_refit(v, refit);
            v.option({.name = "ratio", .help = "share to drop", .least = 0, .most = 0.99}, ratio);
            v.option({.name = "multiple",
                      .help = "what is left is rounded up to a multiple of this: formats store "
                              "blocks of 32, or of 256",
                      .least = 1,
                      .most = 4096},
                     multiple);
        }
    };
    Channels(const Options& options, std::string_view)
        : RefitPruner(options.ratio > 0, options.refit), options_(options) {}

    [[nodiscard]] Cut most(const ModelConfig& config) const override {
        Cut cut = whole(config);
        Kept first(static_cast<std::size_t>(left(config)));
        for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<std::int64_t>(i);
        if (std::ssize(first) < config.ffn) {
            for (LayerCut& layer : cut.of) layer.channels = first;
        }
        return cut;
    }
    [[nodiscard]] Cut cut(Calibration& calibration) const override {
        const ModelConfig& config = calibration.source().config();
        Cut cut = whole(config);
        if (left(config) == config.ffn) return cut;
        for (const SourceTensor& tensor : calibration.source().tensors()) {
            if (!tensor.is_matrix || tensor.rule->cols != Extent::kFfn) continue;
            cut.of[static_cast<std::size_t>(tensor.layer)].channels =
                largest(calibration.column_energy(tensor), left(config));
        }
        return cut;
    }

  private:
    [[nodiscard]] std::int64_t left(const ModelConfig& config) const {
        const auto exact = std::llround((1 - options_.ratio) * static_cast<double>(config.ffn));
        const std::int64_t groups = (exact + options_.multiple - 1) / options_.multiple;
        return std::min(config.ffn, std::max<std::int64_t>(groups, 1) * options_.multiple);
    }

    Options options_;
};

}  // namespace

std::unique_ptr<PrunerType> make_channels_pruner() { return make_pruner_type<Channels>(); }

}  // namespace thimble::prune
