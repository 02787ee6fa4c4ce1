// SPDX-License-Identifier: Apache-2.0
// Drops the activations of feed-forward blocks that matter least at run time, by a threshold for
// each channel: prune/thresholds.h has the sources. Weights stay as they are.
#include "prune/pruner.h"

namespace thimble::prune {
namespace {

class Chess final : public Pruner {
  public:
    static constexpr const char* kName = "chess";
    static constexpr const char* kHelp =
        "thresholds for each channel's activations, below which tokens skip its weights";
    struct Options {
        double sparsity = 0.5;
        void visit(OptionVisitor& v) {
            v.option({.name = "sparsity",
                      .help = "share of activations that is dropped",
                      .least = 0,
                      .most = 0.99},
                     sparsity);
        }
    };
    Chess(const Options& options, std::string_view) : options_(options) {}

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        needs.thresholds = true;
        return needs;
    }
    [[nodiscard]] ThresholdRule thresholds() const override { return {options_.sparsity, true}; }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<PrunerType> make_chess_pruner() { return make_pruner_type<Chess>(); }

}  // namespace thimble::prune
