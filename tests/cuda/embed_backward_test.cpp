// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"

namespace thimble::cuda_test {
namespace {

// Row u of `rows` gets the tokens of places [starts[u], starts[u + 1]) of `order`.
void check_case(std::int64_t cols, const std::vector<std::int32_t>& rows,
                const std::vector<std::int32_t>& starts, const std::vector<std::int32_t>& order) {
    CAPTURE(cols);
    const std::int64_t stride = cols + 3, table_rows = 9;
    const auto dx = values(order.size() * static_cast<std::size_t>(stride), 1);
    const auto before = values(static_cast<std::size_t>(table_rows * stride), 2);
    const float factor = 1.75f;
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dev_dx(dx), table(before);
        const Array<std::int32_t> dev_rows(rows), dev_starts(starts), dev_order(order);
        cuda::embed_backward({.dx = dev_dx.data(),
                              .dx_stride = stride,
                              .rows = dev_rows.data(),
                              .starts = dev_starts.data(),
                              .order = dev_order.data(),
                              .runs = std::ssize(rows),
                              .cols = cols,
                              .table = table.data(),
                              .table_stride = stride,
                              .factor = factor},
                             stream());
        return table.get();
    });
    std::vector<double> want(before.begin(), before.end());
    for (std::size_t u = 0; u < rows.size(); ++u) {
        for (std::int32_t i = starts[u]; i < starts[u + 1]; ++i) {
            for (std::int64_t c = 0; c < cols; ++c) {
                const auto from = order[static_cast<std::size_t>(i)] * stride + c;
                want[static_cast<std::size_t>(rows[u] * stride + c)] +=
                    static_cast<double>(factor) *
                    static_cast<double>(dx[static_cast<std::size_t>(from)]);
            }
        }
    }
    const double terms = 3.5 * 1.75 * static_cast<double>(order.size() + 1);
    check_close(got, want, 0x1p-24 * terms * static_cast<double>(order.size() + 1));
}

}  // namespace

void check_embed_backward() {
    check_case(5, {}, {0}, {});
    check_case(1, {8}, {0, 1}, {0});
    check_case(130, {7, 0, 3}, {0, 2, 3, 6}, {4, 0, 2, 1, 3, 5});
}

}  // namespace thimble::cuda_test
