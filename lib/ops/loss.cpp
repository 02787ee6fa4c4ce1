// SPDX-License-Identifier: Apache-2.0
#include "ops/loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "ops/dispatch.h"
#include "ops/on_cuda.h"

namespace thimble::ops {
namespace {

// fn(row, its logits, its statistics), by the team.
template <class Fn>
void for_reals(const Exec& exec, const LossTile& tile, Fn&& fn) {
    const View& z = tile.z;
    for_rows(exec, z.rows, 4 * z.cols, [&](std::int64_t r) {
        double* stats = tile.stats.row<double>(r);
        is_ref(exec) ? fn(r, z.row<double>(r), stats) : fn(r, z.row<float>(r), stats);
    });
}

// Largest element and sum of exp(element - largest).
std::pair<double, double> top_and_sum(const Exec& exec, const float* x, std::int64_t n) {
    float top = 0;
    std::int32_t at = 0;
    double sum = 0;
    kernels(exec.isa).row_stats(x, n, &top, &at, &sum);
    return {top, sum};
}
std::pair<double, double> top_and_sum(const Exec&, const double* x, std::int64_t n) {
    const double top = *std::max_element(x, x + n);
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
    return {top, sum};
}

void scaled_exp(const Exec& exec, float* x, std::int64_t n, double shift, double factor) {
    kernels(exec.isa).scaled_exp(x, n, static_cast<float>(shift), static_cast<float>(factor));
}
void scaled_exp(const Exec&, double* x, std::int64_t n, double shift, double factor) {
    for (std::int64_t i = 0; i < n; ++i) x[i] = factor * std::exp(x[i] - shift);
}

void require_tile(const Exec& exec, const LossTile& tile, const char* operation) {
    require_view(exec, tile.z, std::ssize(tile.targets), tile.z.cols, operation);
    require(tile.stats.dtype == DType::kF64 && tile.stats.rows == tile.z.rows, operation,
            "the statistics are of other rows");
}

// Where a row's target stands in the tile; outside [0, z.cols): in none of it.
std::int64_t target_of(const LossTile& tile, std::int64_t r) {
    return tile.targets[static_cast<std::size_t>(r)] - tile.first;
}

}  // namespace

void gather_rows(const Exec& exec, View x, std::span<const std::int32_t> rows, View out) {
    require_view(exec, x, x.rows, out.cols, "gather_rows");
    require_view(exec, out, std::ssize(rows), x.cols, "gather_rows");
    if (is_cuda(exec)) return on_cuda::gather_rows(exec, x, rows, out);
    if (exec.dry) return;
    for (std::int64_t i = 0; i < out.rows; ++i) {
        std::memcpy(out.row_bytes(i), x.row_bytes(rows[static_cast<std::size_t>(i)]),
                    static_cast<std::size_t>(x.cols) * size_of(x.dtype));
    }
}

View take_loss_stats(const Exec& exec, std::int64_t rows) {
    const View stats = exec.workspace->take_view(DType::kF64, rows, 3);
    if (exec.dry) return stats;
    if (is_cuda(exec)) {
        on_cuda::clear_loss_stats(exec, stats);
        return stats;
    }
    for (std::int64_t r = 0; r < rows; ++r) {
        double* of = stats.row<double>(r);
        of[0] = -std::numeric_limits<double>::infinity(), of[1] = 0, of[2] = 0;
    }
    return stats;
}

void add_loss_stats(const Exec& exec, const LossTile& tile) {
    require_tile(exec, tile, "add_loss_stats");
    if (is_cuda(exec)) return on_cuda::add_loss_stats(exec, tile);
    if (exec.dry) return;
    for_reals(exec, tile, [&](std::int64_t r, const auto* logits, double* stats) {
        const auto [top, sum] = top_and_sum(exec, logits, tile.z.cols);
        const double largest = std::max(stats[0], top);
        const double before = stats[1] > 0 ? stats[1] * std::exp(stats[0] - largest) : 0;
        stats[1] = before + sum * std::exp(top - largest);
        stats[0] = largest;
        const std::int64_t t = target_of(tile, r);
        if (t >= 0 && t < tile.z.cols) stats[2] = static_cast<double>(logits[t]);
    });
}

void loss_gradient(const Exec& exec, const LossTile& tile, double scale) {
    require_tile(exec, tile, "loss_gradient");
    if (is_cuda(exec)) return on_cuda::loss_gradient(exec, tile, scale);
    if (exec.dry) return;
    for_reals(exec, tile, [&](std::int64_t r, auto* logits, const double* stats) {
        using Real = std::remove_pointer_t<decltype(logits)>;
        scaled_exp(exec, logits, tile.z.cols, stats[0], scale / stats[1]);
        const std::int64_t t = target_of(tile, r);
        if (t >= 0 && t < tile.z.cols) logits[t] -= static_cast<Real>(scale);
    });
}

double sum_of_losses(const Exec& exec, View stats) {
    if (exec.dry) return 0;
    if (is_cuda(exec)) return on_cuda::sum_of_losses(exec, stats);
    double sum = 0;
    for (std::int64_t r = 0; r < stats.rows; ++r) {
        const double* of = stats.row<double>(r);
        sum += of[0] + std::log(of[1]) - of[2];
    }
    return sum;
}

}  // namespace thimble::ops
