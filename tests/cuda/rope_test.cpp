// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"
#include "kernels/ref/ref.h"

namespace thimble::cuda_test {
namespace {

struct RopeCase {
    int heads, head_dim, dims;
    bool halves;
    std::vector<std::int64_t> positions;
};

void check_rotation(const RopeCase& c) {
    CAPTURE(c.heads);
    CAPTURE(c.dims);
    CAPTURE(c.halves);
    const auto tokens = std::ssize(c.positions);
    const std::int64_t stride = c.heads * c.head_dim + 3;
    const auto x = values(static_cast<std::size_t>(tokens * stride), 6);
    std::vector<double> frequencies;
    for (int i = 0; i < c.dims / 2; ++i)
        frequencies.push_back(ref::rope_angle(i, c.dims, 10000, 1, 1, 1));
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x);
        const Array<double> df(frequencies);
        const Array<std::int64_t> positions(c.positions);
        cuda::rope({dx.data(), tokens, stride, c.heads, c.head_dim, c.dims, c.halves,
                    positions.data(), df.data()},
                   stream());
        return dx.get();
    });
    std::vector<double> want(x.begin(), x.end());
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (int h = 0; h < c.heads; ++h) {
            double* head = want.data() + t * stride + h * c.head_dim;
            for (int i = 0; i < c.dims / 2; ++i) {
                const double angle = static_cast<double>(c.positions[static_cast<std::size_t>(t)]) *
                                     frequencies[static_cast<std::size_t>(i)];
                double& first = head[c.halves ? i : 2 * i];
                double& second = head[c.halves ? i + c.dims / 2 : 2 * i + 1];
                ref::rotate(first, second, std::cos(angle), std::sin(angle));
            }
        }
    }
    check_close(got, want, 4 * 0x1p-24 * 2 * 4);  // roundings, of two products of values up to 4
}

}  // namespace

void check_rope() {
    for (const bool halves : {false, true}) {
        check_rotation({1, 32, 32, halves, {}});
        check_rotation({3, 64, 64, halves, {0, 7, 131071}});  // an angle that float would spoil
        check_rotation({2, 96, 48, halves, {5}});
        check_rotation({9, 128, 128, halves, {4000}});  // more pairs than threads
        check_rotation({1, 2, 2, halves, {1, 3}});
    }
    CHECK_FALSE(cuda::supports_rope({nullptr, 1, 64, 1, 64, 33, true, nullptr, nullptr}));
    CHECK_FALSE(cuda::supports_rope({nullptr, 1, 64, 1, 64, 66, true, nullptr, nullptr}));
}

}  // namespace thimble::cuda_test
