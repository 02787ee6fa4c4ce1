// SPDX-License-Identifier: Apache-2.0
#include "compress/low_rank.h"

#include <algorithm>
#include <cmath>

#include "calib/eigen.h"
#include "kernels/layout/rng.h"
#include "ops/dense.h"

namespace thimble {
namespace {

using Doubles = std::vector<double>;

std::size_t index(std::int64_t row, std::int64_t cols, std::int64_t col = 0) {
    return static_cast<std::size_t>(row * cols + col);
}

// Eight sums side by side, then their sum: the same on every machine.
double dot(const float* a, const float* b, std::int64_t n) {
    double sums[8] = {};
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; ++j)
            sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) +
           ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// Rows of v: [count, n] become orthonormal, one that depends on those before it zero. Twice is
// enough.
void orthonormalise(float* v, std::int64_t count, std::int64_t n) {
    for (std::int64_t i = 0; i < count; ++i) {
        float* row = v + i * n;
        const double before = std::sqrt(dot(row, row, n));
        for (int pass = 0; pass < 2; ++pass) {
            for (std::int64_t j = 0; j < i; ++j) {
                const float* other = v + j * n;
                const auto part = static_cast<float>(dot(row, other, n));
                for (std::int64_t c = 0; c < n; ++c) row[c] -= part * other[c];
            }
        }
        const double length = std::sqrt(dot(row, row, n));
        const auto factor = static_cast<float>(length > 1e-6 * before ? 1 / length : 0);
        for (std::int64_t c = 0; c < n; ++c) row[c] *= factor;
    }
}

View view(std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
    return {reinterpret_cast<std::byte*>(values.data()), DType::kF32, rows, cols, cols};
}

// Columns of `v` ([count, n], as rows) turned by the leading eigenvectors (rows of `vectors`) and
// scaled, one by one, as [n, rank].
std::vector<float> turned(const std::vector<float>& v, std::int64_t count, std::int64_t n,
                          const Doubles& vectors, const Doubles& scales) {
    const auto rank = std::ssize(scales);
    std::vector<float> out(index(n, rank));
    Doubles sums(static_cast<std::size_t>(n));
    for (std::int64_t k = 0; k < rank; ++k) {
        std::ranges::fill(sums, 0.0);
        for (std::int64_t i = 0; i < count; ++i) {
            const double part = vectors[index(k, count, i)];
            for (std::int64_t c = 0; c < n; ++c)
                sums[index(c, 1)] += part * static_cast<double>(v[index(i, n, c)]);
        }
        for (std::int64_t c = 0; c < n; ++c)
            out[index(c, rank, k)] =
                static_cast<float>(sums[index(c, 1)] * scales[static_cast<std::size_t>(k)]);
    }
    return out;
}

}  // namespace

LowRankFactors leading_factors(const Exec& exec, View w, const LowRankOptions& options) {
    const std::int64_t rows = w.rows, cols = w.cols;
    const std::int64_t count = std::min({options.rank + options.oversampling, rows, cols});
    std::vector<float> of_cols(index(count, cols)), of_rows(index(count, rows));
    for (std::size_t i = 0; i < of_cols.size(); ++i)
        of_cols[i] = unit_float(philox(options.seed, i).v[0]) - 0.5f;
    // w times vectors of columns, and its transpose times vectors of rows.
    const auto forth = [&] {
        ops::dense::multiply_tiled(exec, {.a = view(of_cols, count, cols),
                                          .b = w,
                                          .b_transposed = true,
                                          .c = view(of_rows, count, rows)});
        orthonormalise(of_rows.data(), count, rows);
    };
    const auto back = [&] {
        ops::dense::multiply_tiled(
            exec, {.a = view(of_rows, count, rows), .b = w, .c = view(of_cols, count, cols)});
    };
    forth();
    for (int i = 0; i < options.iterations; ++i) {
        back();
        forth();
    }
    back();
    // Now w is about of_rows^T of_cols, whose left part is orthonormal.
    Doubles gram(index(count, count));
    for (std::int64_t i = 0; i < count; ++i)
        for (std::int64_t j = 0; j <= i; ++j)
            gram[index(i, count, j)] = gram[index(j, count, i)] =
                dot(of_cols.data() + i * cols, of_cols.data() + j * cols, cols);
    Doubles values(static_cast<std::size_t>(count));
    symmetric_eigen(gram, values);
    Doubles grow, shrink;  // the roots of the singular values, and what makes them of these
    for (std::int64_t k = 0; k < std::min(options.rank, count); ++k) {
        const double root = std::pow(std::max(values[static_cast<std::size_t>(k)], 0.0), 0.25);
        grow.push_back(root);
        shrink.push_back(root > 0 ? 1 / root : 0);
    }
    return {turned(of_rows, count, rows, gram, grow), turned(of_cols, count, cols, gram, shrink)};
}

std::uint64_t leading_factors_bytes(std::int64_t rows, std::int64_t cols, std::int64_t rank) {
    const std::int64_t count = std::min({rank + LowRankOptions{}.oversampling, rows, cols});
    const std::int64_t floats = (count + rank) * (rows + cols);
    const std::int64_t doubles = count * count + count + std::max(rows, cols);
    return static_cast<std::uint64_t>(floats * std::int64_t{sizeof(float)} +
                                      doubles * std::int64_t{sizeof(double)}) +
           symmetric_eigen_bytes(static_cast<std::uint64_t>(count));
}

}  // namespace thimble
