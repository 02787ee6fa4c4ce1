// SPDX-License-Identifier: Apache-2.0
// Zeroes in each row the weights with the least |w| times the norm of what they multiply.
// "A Simple and Effective Pruning Approach for Large Language Models" (2024), eq. 1.
#include <cmath>

#include "core/error.h"
#include "prune/pruner.h"
#include "prune/sparsity.h"

namespace thimble::prune {
namespace {

class Wanda final : public Pruner {
  public:
    static constexpr const char* kName = "wanda";
    static constexpr const char* kHelp = "zero the weights of a row that matter least to its sum";
    using Options = SparsityOptions;
    Wanda(const Options& options, std::string_view where) : sparsity_(options, where) {}

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        needs.squares = needs.edits = true;
        return needs;
    }
    [[nodiscard]] std::int64_t most_kept(std::int64_t cols) const override {
        return sparsity_.kept_of(cols);
    }
    void prune(const MatrixAtWork& matrix) const override {
        sparsity_.check(matrix.name, matrix.shape.cols);
        std::vector<double> norms;
        for (const double square : matrix.squares) norms.push_back(std::sqrt(square));
        zero_rows(
            matrix.weights, matrix.shape, sparsity_,
            [&](std::int64_t, std::int64_t col, float w) {
                return std::abs(static_cast<double>(w)) * norms[static_cast<std::size_t>(col)];
            },
            *matrix.exec.team);
    }

  private:
    Sparsity sparsity_;
};

}  // namespace

std::unique_ptr<PrunerType> make_wanda_pruner() { return make_pruner_type<Wanda>(); }

}  // namespace thimble::prune
