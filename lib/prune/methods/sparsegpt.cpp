// SPDX-License-Identifier: Apache-2.0
// Zeroes weights column by column and changes those that follow so that the layer's output stays as
// near as it can: "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023),
// algorithm 1. With U upper triangular and U^T U = (X X^T)^-1, zeroing w_j costs w_j^2 / U_jj^2 and
// asks for w -= w_j / U_jj * U_j.
// differs: factors in doubles; of equal scores the first column goes, so counts are exact.
#include <algorithm>
#include <cmath>
#include <vector>

#include "calib/inverse_factor.h"
#include "core/error.h"
#include "ops/dense.h"
#include "prune/pruner.h"
#include "prune/sparsity.h"

namespace thimble::prune {
namespace {

// A matrix at work in blocks of columns.
class Columns {
  public:
    Columns(const MatrixAtWork& matrix, const double* factor, const Sparsity& sparsity)
        : matrix_(matrix), factor_(factor), sparsity_(sparsity) {}

    // Columns [first, first + width): zeroed, and what that asks of each other column of the block
    // done. errors [rows, width] is what it asks of the columns behind it, before U.
    void run(std::int64_t first, std::int64_t width, std::span<float> errors) {
        const std::int64_t rows = matrix_.shape.rows;
        std::vector<std::uint8_t> goes;
        if (!sparsity_.is_pattern()) goes = choose(first, width);
        matrix_.exec.team->run(rows, 8, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = begin; r < end; ++r)
                run_row(r, first, width, goes, errors.data() + r * width);
        });
    }

  private:
    [[nodiscard]] double u(std::int64_t r, std::int64_t c) const {
        return factor_[r * matrix_.shape.cols + c];
    }
    [[nodiscard]] double cost(float w, std::int64_t col) const {
        const double d = u(col, col), v = w;
        return v * v / (d * d);
    }

    // The cheapest weights of the whole block, [rows, width] flags.
    [[nodiscard]] std::vector<std::uint8_t> choose(std::int64_t first, std::int64_t width) const {
        const std::int64_t rows = matrix_.shape.rows, cols = matrix_.shape.cols;
        const auto count = static_cast<std::size_t>(rows * width);
        std::vector<double> costs(count);
        std::vector<float> flags(count, 1.0F);
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < width; ++c)
                costs[static_cast<std::size_t>(r * width + c)] = cost(
                    matrix_.weights[static_cast<std::size_t>(r * cols + first + c)], first + c);
        }
        zero_least(flags, costs, sparsity_.zeros_of(rows * width));
        std::vector<std::uint8_t> goes(count);
        for (std::size_t i = 0; i < count; ++i) goes[i] = flags[i] == 0 ? 1 : 0;
        return goes;
    }

    void run_row(std::int64_t r, std::int64_t first, std::int64_t width,
                 const std::vector<std::uint8_t>& goes, float* errors) const {
        float* w = matrix_.weights.data() + r * matrix_.shape.cols + first;
        std::vector<float> group;
        for (std::int64_t c = 0; c < width; ++c) {
            bool gone = false;
            if (sparsity_.is_pattern()) {
                if (c % sparsity_.m == 0) group = choose_group(w + c, first + c);
                gone = group[static_cast<std::size_t>(c % sparsity_.m)] == 0;
            } else {
                gone = goes[static_cast<std::size_t>(r * width + c)] != 0;
            }
            const double error = gone ? static_cast<double>(w[c]) / u(first + c, first + c) : 0;
            errors[c] = static_cast<float>(error);
            if (!gone) continue;
            w[c] = 0;
            for (std::int64_t k = c + 1; k < width; ++k)
                w[k] = static_cast<float>(w[k] - error * u(first + c, first + k));
        }
    }
    [[nodiscard]] std::vector<float> choose_group(const float* w, std::int64_t col) const {
        std::vector<double> costs;
        for (std::int64_t i = 0; i < sparsity_.m; ++i) costs.push_back(cost(w[i], col + i));
        std::vector<float> flags(costs.size(), 1.0F);
        zero_least(flags, costs, sparsity_.zeros_of(sparsity_.m));
        return flags;
    }

    const MatrixAtWork& matrix_;
    const double* factor_;
    const Sparsity& sparsity_;
};

class SparseGpt final : public Pruner {
  public:
    static constexpr const char* kName = "sparsegpt";
    static constexpr const char* kHelp = "zero weights, and make up for them with those that stay";
    struct Options {
        SparsityOptions sparsity;
        double damp = 0.01;
        std::int64_t block = 128;
        void visit(OptionVisitor& v) {
            sparsity.visit(v);
            v.option({.name = "damp",
                      .help = "added to the diagonal, of its mean",
                      .least = 1e-8,
                      .most = 1},
                     damp);
            v.option({.name = "block",
                      .help = "columns that weights are compared within",
                      .least = 1,
                      .most = 4096},
                     block);
        }
    };
    SparseGpt(const Options& options, std::string_view where)
        : options_(options), sparsity_(options.sparsity, where) {
        if (sparsity_.is_pattern() && options.block % sparsity_.m != 0) {
            throw Error(Exit::kUsage, std::string(where),
                        "block=" + std::to_string(options.block) + " is no multiple of " +
                            std::to_string(sparsity_.m));
        }
    }

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        needs.gram = needs.edits = true;
        return needs;
    }
    [[nodiscard]] std::size_t prune_bytes(Shape2 largest) const override {
        const auto block = static_cast<std::size_t>(largest.rows * options_.block);
        const auto strip = static_cast<std::size_t>(options_.block * largest.cols);
        return inverse_factor_bytes(largest.cols) + block * (sizeof(double) + 9) +
               (block + strip) * sizeof(float);
    }
    [[nodiscard]] std::int64_t most_kept(std::int64_t cols) const override {
        return sparsity_.is_pattern() ? sparsity_.kept_of(cols) : 0;
    }
    void prune(const MatrixAtWork& matrix) const override {
        sparsity_.check(matrix.name, matrix.shape.cols);
        if (!sparsity_.is_pattern() && sparsity_.share == 0) return;
        const std::int64_t rows = matrix.shape.rows, cols = matrix.shape.cols;
        const Buffer factor = inverse_factor(matrix.gram, cols, options_.damp,
                                             "tensor '" + std::string(matrix.name) + "'");
        const auto* u = factor.as<double>();
        Columns columns(matrix, u, sparsity_);
        std::vector<float> errors(static_cast<std::size_t>(rows * options_.block));
        std::vector<float> strip(static_cast<std::size_t>(options_.block * cols));
        for (std::int64_t first = 0; first < cols; first += options_.block) {
            const std::int64_t width = std::min(options_.block, cols - first);
            columns.run(first, width, errors);
            const std::int64_t behind = cols - first - width;
            if (behind == 0) break;
            // weights[:, behind] -= errors U[block, behind]
            for (std::int64_t r = 0; r < width; ++r) {
                for (std::int64_t c = 0; c < behind; ++c)
                    strip[static_cast<std::size_t>(r * behind + c)] =
                        static_cast<float>(-u[(first + r) * cols + first + width + c]);
            }
            ops::dense::Product product;
            product.a = {errors.data(), DType::kF32, rows, width, width};
            product.b = {strip.data(), DType::kF32, width, behind, behind};
            product.c = {matrix.weights.data() + first + width, DType::kF32, rows, behind, cols};
            product.accumulate = true;
            ops::dense::multiply_tiled(matrix.exec, product);
        }
    }

  private:
    Options options_;
    Sparsity sparsity_;
};

}  // namespace

std::unique_ptr<PrunerType> make_sparsegpt_pruner() { return make_pruner_type<SparseGpt>(); }

}  // namespace thimble::prune
