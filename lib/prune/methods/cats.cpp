// SPDX-License-Identifier: Apache-2.0
// Drops the smallest activations of feed-forward blocks at run time, by one threshold for each
// layer: prune/thresholds.h has the sources. Weights stay as they are.
#include "prune/pruner.h"

namespace thimble::prune {
namespace {

class Cats final : public Pruner {
  public:
    static constexpr const char* kName = "cats";
    static constexpr const char* kHelp =
        "one threshold for each layer's activations, below which tokens skip weights";
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
    Cats(const Options& options, std::string_view) : options_(options) {}

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        needs.thresholds = true;
        return needs;
    }
    [[nodiscard]] ThresholdRule thresholds() const override { return {options_.sparsity, false}; }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<PrunerType> make_cats_pruner() { return make_pruner_type<Cats>(); }

}  // namespace thimble::prune
