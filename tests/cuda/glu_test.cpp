// SPDX-License-Identifier: Apache-2.0
#include "harness.h"
#include "kernels/ref/ref.h"

namespace thimble::cuda_test {
namespace {

void check_gating(cuda::Activation activation, std::int64_t rows, std::int64_t cols,
                  std::size_t offset, std::int64_t gap, float size) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(offset);
    const std::int64_t stride = cols + gap;
    const std::size_t n = offset + static_cast<std::size_t>(rows * stride);
    const auto gate = values(n, 4, size), up = values(n, 5);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dg(gate), du(up);
        cuda::glu({activation, dg.data() + offset, du.data() + offset, dg.data() + offset, rows,
                   cols, stride, stride, stride},
                  stream());
        return dg.get();
    });
    std::vector<double> want(gate.begin(), gate.end());
    for (std::size_t i = offset; i < n; ++i) {
        if (static_cast<std::int64_t>(i - offset) % stride >= cols) continue;
        const auto g = static_cast<double>(gate[i]);
        want[i] = static_cast<double>(up[i]) *
                  (activation == cuda::Activation::kSilu ? ref::silu(g) : ref::gelu_tanh(g));
    }
    // Roundings, of products of at most 3.5 size and 3.5.
    check_close(got, want, 8 * 0x1p-24 * 12 * static_cast<double>(size));
}

// What is no larger than its column's threshold becomes 0.

void check_threshold(cuda::Activation activation, std::int64_t rows, std::int64_t cols) {
    CAPTURE(cols);
    const auto n = static_cast<std::size_t>(rows * cols);
    const auto gate = values(n, 6, 2), up = values(n, 7);
    std::vector<float> least = values(static_cast<std::size_t>(cols), 8);
    for (float& t : least) t = t < 0 ? 0 : t / 2;
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dg(gate), du(up), dt(least);
        cuda::glu(
            {activation, dg.data(), du.data(), dg.data(), rows, cols, cols, cols, cols, dt.data()},
            stream());
        return dg.get();
    });
    std::vector<double> want;
    std::size_t dropped = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const auto g = static_cast<double>(gate[i]);
        const double a = activation == cuda::Activation::kSilu ? ref::silu(g) : ref::gelu_tanh(g);
        const auto t = static_cast<double>(least[i % static_cast<std::size_t>(cols)]);
        REQUIRE((t == 0 || std::abs(std::abs(a) - t) > 1e-6));  // neither way by rounding
        want.push_back(std::abs(a) <= t ? 0 : a * static_cast<double>(up[i]));
        dropped += std::abs(a) <= t ? 1 : 0;
    }
    CHECK((dropped > n / 8 && dropped < n));
    check_close(got, want, 8 * 0x1p-24 * 24);
}

}  // namespace

void check_glu() {
    for (const cuda::Activation a : {cuda::Activation::kSilu, cuda::Activation::kGeluTanh}) {
        check_gating(a, 0, 8, 0, 0, 1);
        check_gating(a, 1, 1, 0, 0, 1);
        check_gating(a, 3, 64, 0, 4, 1);
        check_gating(a, 2, 35, 1, 2, 1);
        check_gating(a, 1, 1500, 0, 0, 40);  // from far below zero, where the gate closes
        check_threshold(a, 3, 64);
        check_threshold(a, 2, 35);
    }
}

}  // namespace thimble::cuda_test
