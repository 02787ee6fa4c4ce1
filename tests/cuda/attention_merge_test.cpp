// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "harness.h"

namespace thimble::cuda_test {
namespace {

struct MergeCase {
    std::int64_t splits, tokens;
    int heads, dim;
    bool with_state;
};

void check_merging(const MergeCase& c) {
    CAPTURE(c.splits);
    CAPTURE(c.tokens);
    CAPTURE(c.dim);
    const std::int64_t rows = c.tokens * c.heads, width = c.heads * c.dim + 5;
    const auto states = static_cast<std::size_t>(c.splits * rows);
    std::vector<float> o = values(states * static_cast<std::size_t>(c.dim), 31);
    std::vector<float> max = values(states, 32, 3), sum = values(states, 33);
    for (std::size_t i = 0; i < states; ++i) {
        sum[i] = 1 + std::abs(sum[i]);
        // Some saw nothing, row 1 not at any split.
        if (i % 5 == 2 || (rows > 1 && static_cast<std::int64_t>(i) % rows == 1)) {
            sum[i] = 0, max[i] = 50;  // which nobody may look at
            for (int d = 0; d < c.dim; ++d)
                o[i * static_cast<std::size_t>(c.dim) + static_cast<std::size_t>(d)] = 0;
        }
    }
    const auto n = static_cast<std::size_t>(rows);
    const std::vector<float> marks(static_cast<std::size_t>(c.tokens * width), -77);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> in_o(o), in_max(max), in_sum(sum), out(marks),
            out_max(std::vector<float>(n, -77)), out_sum(std::vector<float>(n, -77));
        cuda::attention_merge(
            {in_o.data(), in_max.data(), in_sum.data(), c.splits, c.tokens, c.heads, c.dim,
             out.data(), width, c.with_state ? out_max.data() : nullptr, out_sum.data()},
            stream());
        std::vector<float> all = out.get();
        for (const std::vector<float>& more : {out_max.get(), out_sum.get()})
            all.insert(all.end(), more.begin(), more.end());
        return all;
    });
    std::vector<double> want(got.size(), -77);
    double* want_max = want.data() + c.tokens * width;
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto at = [&](std::int64_t s) { return static_cast<std::size_t>(s * rows + row); };
        double top = -1e9, total = 0;
        for (std::int64_t s = 0; s < c.splits; ++s)
            top = sum[at(s)] > 0 ? std::max(top, static_cast<double>(max[at(s)])) : top;
        double* to = want.data() + row / c.heads * width + row % c.heads * c.dim;
        std::fill_n(to, c.dim, 0.0);
        for (std::int64_t s = 0; s < c.splits; ++s) {
            if (sum[at(s)] == 0) continue;
            const double weight =
                static_cast<double>(sum[at(s)]) * std::exp(static_cast<double>(max[at(s)]) - top);
            total += weight;
            for (int d = 0; d < c.dim; ++d)
                to[d] +=
                    weight *
                    static_cast<double>(
                        o[at(s) * static_cast<std::size_t>(c.dim) + static_cast<std::size_t>(d)]);
        }
        for (int d = 0; d < c.dim; ++d) to[d] = total > 0 ? to[d] / total : 0;
        if (!c.with_state) continue;
        CHECK(static_cast<double>(got[static_cast<std::size_t>(c.tokens * width + row)]) ==
              (total > 0 ? top : -std::numeric_limits<double>::infinity()));
        want_max[row] = 0;
        want_max[rows + row] = total;
    }
    std::vector<float> shown = got;
    for (std::int64_t row = 0; c.with_state && row < rows; ++row)
        shown[static_cast<std::size_t>(c.tokens * width + row)] = 0;  // looked at above
    // Roundings of each state's weight and of the sums, of values and sums up to 5 each.
    check_close(shown, want,
                (16 + static_cast<double>(c.splits)) * 0x1p-24 * 5 * static_cast<double>(c.splits));
}

}  // namespace

void check_attention_merge() {
    check_merging({1, 1, 3, 64, true});
    check_merging({7, 2, 2, 96, true});
    check_merging({40, 1, 5, 512, false});
    check_merging({3, 4, 1, 32, false});
    check_merging({2, 0, 4, 64, true});
}

}  // namespace thimble::cuda_test
