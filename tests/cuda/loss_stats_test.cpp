// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "harness.h"

namespace thimble::cuda_test {
namespace {

// Logits of `cols` columns in tiles of `tile`.
void check_case(std::int64_t rows, std::int64_t cols, std::int64_t tile, float size) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(tile);
    const std::int64_t stride = cols + 3;
    const auto z = values(static_cast<std::size_t>(rows * stride), 1, size);
    std::vector<std::int32_t> targets;
    std::vector<double> none, want;
    for (std::int64_t r = 0; r < rows; ++r) {
        targets.push_back(static_cast<std::int32_t>((r * 7 + cols - 1) % cols));
        none.insert(none.end(), {-std::numeric_limits<double>::infinity(), 0, 0});
        double top = none[0], sum = 0;
        const auto at = [&](std::int64_t i) {
            return static_cast<double>(z[static_cast<std::size_t>(r * stride + i)]);
        };
        for (std::int64_t i = 0; i < cols; ++i) top = std::max(top, at(i));
        for (std::int64_t i = 0; i < cols; ++i) sum += std::exp(at(i) - top);
        want.insert(want.end(), {top, std::log(sum), at(targets.back())});
    }
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dz(z);
        const Array<std::int32_t> dt(targets);
        const Array<double> stats(none);
        for (std::int64_t first = 0; first < cols; first += tile) {
            cuda::loss_stats({.z = dz.data() + first,
                              .rows = rows,
                              .cols = std::min(tile, cols - first),
                              .stride = stride,
                              .first = first,
                              .targets = dt.data(),
                              .stats = stats.data()},
                             stream());
        }
        std::vector<float> out;
        const std::vector<double> all = stats.get();
        for (std::size_t i = 0; i < all.size(); ++i)
            out.push_back(static_cast<float>(i % 3 == 1 ? std::log(all[i]) : all[i]));
        return out;
    });
    // The largest and the target's are what they are; the sum of exp is off by an exp's error of an
    // argument up to 7 sizes, and by its order.
    check_close(got, want, 0x1p-24 * (8 + 14 * static_cast<double>(size) + std::sqrt(cols)));
}

}  // namespace

void check_loss_stats() {
    check_case(0, 8, 8, 1);
    check_case(1, 1, 1, 1);
    check_case(3, 100, 33, 1);
    check_case(2, 700, 512, 20);
    check_case(4, 300, 1000, 1);
}

}  // namespace thimble::cuda_test
