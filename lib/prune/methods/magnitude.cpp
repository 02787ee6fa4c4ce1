// SPDX-License-Identifier: Apache-2.0
// Zeroes the weights that are smallest in size: the baseline that needs no text. Compared within a
// matrix ("Learning both Weights and Connections for Efficient Neural Networks", 2015), or within a
// row of it.
#include <cmath>
#include <vector>

#include "prune/pruner.h"
#include "prune/sparsity.h"

namespace thimble::prune {
namespace {

class Magnitude final : public Pruner {
  public:
    static constexpr const char* kName = "magnitude";
    static constexpr const char* kHelp = "zero the smallest weights";
    struct Options {
        SparsityOptions sparsity;
        std::string scope = "matrix";
        void visit(OptionVisitor& v) {
            sparsity.visit(v);
            v.option({.name = "scope",
                      .help = "what weights are compared within",
                      .choices = {"matrix", "row"}},
                     scope);
        }
    };
    Magnitude(const Options& options, std::string_view where)
        : sparsity_(options.sparsity, where), by_row_(options.scope == "row") {}

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        needs.edits = true;
        return needs;
    }
    [[nodiscard]] std::size_t prune_bytes(Shape2 largest) const override {
        const auto weights = static_cast<std::size_t>(largest.rows * largest.cols);
        return by_row_ || sparsity_.is_pattern()
                   ? 0
                   : weights * (sizeof(double) + sizeof(std::uint32_t));
    }
    [[nodiscard]] std::int64_t most_kept(std::int64_t cols) const override {
        return by_row_ || sparsity_.is_pattern() ? sparsity_.kept_of(cols) : 0;
    }
    void prune(const MatrixAtWork& matrix) const override {
        sparsity_.check(matrix.name, matrix.shape.cols);
        const auto size = [](std::int64_t, std::int64_t, float w) {
            return static_cast<double>(std::abs(w));
        };
        if (by_row_ || sparsity_.is_pattern()) {
            zero_rows(matrix.weights, matrix.shape, sparsity_, size, *matrix.exec.team);
            return;
        }
        std::vector<double> scores;
        scores.reserve(matrix.weights.size());
        for (const float w : matrix.weights) scores.push_back(size(0, 0, w));
        zero_least(matrix.weights, scores, sparsity_.zeros_of(std::ssize(matrix.weights)));
    }

  private:
    Sparsity sparsity_;
    bool by_row_;
};

}  // namespace

std::unique_ptr<PrunerType> make_magnitude_pruner() { return make_pruner_type<Magnitude>(); }

}  // namespace thimble::prune
