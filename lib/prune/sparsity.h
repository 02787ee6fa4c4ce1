// SPDX-License-Identifier: Apache-2.0
// How many weights become zero, and where: a share of them, or all but n of every m in a row.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "core/options.h"
#include "core/team.h"
#include "format/packed.h"

namespace thimble::prune {

struct SparsityOptions {
    double sparsity = 0.5;
    std::string nm;  // "2:4"
    void visit(OptionVisitor& v);
};

// What the options say.
struct Sparsity {
    Sparsity(const SparsityOptions& options, std::string_view where);
    double share = 0;
    std::int64_t n = 0, m = 0;  // n of every m stay; m == 0: a share of all goes
    [[nodiscard]] bool is_pattern() const noexcept { return m > 0; }
    // Of so many weights, how many become zero.
    [[nodiscard]] std::int64_t zeros_of(std::int64_t weights) const;
    // Of a row of so many weights, how many stay where each row, or each group of it, is cut alike.
    [[nodiscard]] std::int64_t kept_of(std::int64_t cols) const {
        return is_pattern() ? cols / m * n : cols - zeros_of(cols);
    }
    // Error(kUsage) naming the tensor where a row is not whole groups.
    void check(std::string_view tensor, std::int64_t cols) const;
};

// Sets the `count` weights with the least scores to zero; of equal ones the first.
void zero_least(std::span<float> weights, std::span<const double> scores, std::int64_t count);
// The same by row, or by group of a row. score(row, column, weight) is not negative.
using Score = std::function<double(std::int64_t row, std::int64_t col, float weight)>;
void zero_rows(std::span<float> weights, Shape2 shape, const Sparsity& sparsity, const Score& score,
               Team& team);

}  // namespace thimble::prune
