// SPDX-License-Identifier: Apache-2.0
// What methods share that drop columns of a matrix by the energy of its inputs and fit those that
// stay to make up for it.
#pragma once

#include <algorithm>
#include <cmath>

#include "calib/refit.h"
#include "prune/pruner.h"

namespace thimble::prune {

// How the share that goes is spread over layers.
struct SpreadOptions {
    bool per_layer = false;
    double least = 0.25;
    void visit(OptionVisitor& v) {
        v.option(
            {.name = "per-layer",
             .help = "the share is of the whole model, and each layer keeps what its parts add "
                     "to its own output, as a share of that: layers differ"},
            per_layer);
        v.option({.name = "least",
                  .help = "with per-layer, share of each layer that stays in any case",
                  .least = 0,
                  .most = 1},
                 least);
    }
    [[nodiscard]] std::int64_t least_of(std::int64_t parts) const {
        return std::max<std::int64_t>(std::llround(least * static_cast<double>(parts)), 1);
    }
};

class RefitPruner : public Pruner {
  public:
    [[nodiscard]] Needs needs() const final {
        Needs needs;
        needs.squares = cuts_;
        needs.refits = needs.gram = cuts_ && refit_;
        return needs;
    }
    [[nodiscard]] std::size_t prune_bytes(Shape2 largest) const final {
        return refit_ ? refit_bytes(largest) : 0;
    }
    void prune(const MatrixAtWork& matrix) const final {
        refit_columns(matrix.weights, matrix.shape, matrix.gram, *matrix.cols, kDamp,
                      "tensor '" + std::string(matrix.name) + "'");
    }

  protected:
    // `cuts`: whether anything goes.
    RefitPruner(bool cuts, bool refit) : cuts_(cuts), refit_(refit) {}
    static void visit_refit(OptionVisitor& v, bool& refit) {
        v.option({.name = "refit", .help = "fit the weights that stay to make up for what goes"},
                 refit);
    }

  private:
    static constexpr double kDamp = 0.01;  // as sparsegpt's
    bool cuts_, refit_;
};

}  // namespace thimble::prune
