// SPDX-License-Identifier: Apache-2.0
// Codes of activations, gates and the linear recurrence against their definitions.
#include <doctest/doctest.h>

#include <algorithm>

#include "harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const std::int64_t kWidths[] = {1, 3, 16, 33, 300, 1037};

std::vector<float> some_rows(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    return Random(seed).normals(rows * cols, 2);
}

// fn(machine) on each level with 1 and 3 threads, and on the reference device.
template <class Fn>
void on_all(Fn&& fn) {
    for (const Isa isa : levels()) {
        for (const int threads : {1, 3}) {
            CAPTURE(name(isa));
            CAPTURE(threads);
            Machine m(isa, threads);
            fn(m.exec);
        }
    }
    Machine oracle(Isa::kPortable, 2, 1 << 20, Device::kRef);
    fn(oracle.exec);
}

}  // namespace

TEST_CASE("round_codes: the nearest of 255 codes of a row's own scale, ties to even") {
    for (const std::int64_t n : kWidths) {
        CAPTURE(n);
        on_all([&](const Exec& exec) {
            Guarded x(exec, some_rows(40, n, 5), 40), out(exec.dtype(), 40, n);
            for (std::int64_t c = 0; c < n; ++c) x.set(7, c, 0);     // a row of zeros
            for (std::int64_t c = 0; c < n; ++c) x.set(8, c, 1e-7);  // below the least scale
            ops::round_codes(exec, x.view(), out.view());
            CHECK(out.guards_hold());
            int wrong = 0;
            for (std::int64_t r = 0; r < 40; ++r) {
                double top = 1e-5;
                for (std::int64_t c = 0; c < n; ++c) top = std::max(top, std::abs(x.at(r, c)));
                for (std::int64_t c = 0; c < n; ++c) {
                    const double scaled = x.at(r, c) * (127 / top);
                    const double code = out.at(r, c) * (127 / top);
                    // A code, the nearest one but for the rounding of the arithmetic.
                    wrong += std::abs(code - std::nearbyint(code)) > 1e-4 ? 1 : 0;
                    wrong += std::abs(code - scaled) > 0.5 + 1e-4 ? 1 : 0;
                }
            }
            CHECK(wrong == 0);
            ops::round_codes(exec, x.view(), x.view());
            CHECK(x.same_bits(out));
        });
    }
}

TEST_CASE("round_codes: halves go to the even code, on every device") {
    on_all([&](const Exec& exec) {
        // With 127 as the largest, every number is its own code.
        const std::vector<float> row = {127,   0.5f,  1.5f,   2.5f,   -0.5f,
                                        -1.5f, -2.5f, 126.5f, -126.5f};
        const std::vector<double> codes = {127, 0, 2, 2, 0, -2, -2, 126, -126};
        Guarded x(exec, row, 1);
        ops::round_codes(exec, x.view(), x.view());
        for (std::size_t i = 0; i < codes.size(); ++i)
            CHECK(x.at(0, static_cast<std::int64_t>(i)) == codes[i]);
    });
}

TEST_CASE("forget_gate: a sigmoid between its bound and one, and what that leaves") {
    for (const std::int64_t n : kWidths) {
        CAPTURE(n);
        on_all([&](const Exec& exec) {
            Guarded x(exec, some_rows(9, n, 6), 9), keep(exec.dtype(), 9, n), take = keep;
            std::vector<float> bounds;
            for (std::int64_t c = 0; c < n; ++c) bounds.push_back(0.9f * Random(40).unit());
            Guarded lowest(exec, bounds, 1);
            ops::forget_gate(exec, x.view(), lowest.view(), keep.view(), take.view());
            CHECK((keep.guards_hold() && take.guards_hold()));
            const double allowed = exec.dtype() == DType::kF64 ? 1e-15 : 1e-6;
            double worst = 0;
            for (std::int64_t r = 0; r < 9; ++r) {
                for (std::int64_t c = 0; c < n; ++c) {
                    const double low = lowest.at(0, c);
                    const double f = low + (1 - low) / (1 + std::exp(-x.at(r, c)));
                    worst = std::max(
                        {worst, std::abs(keep.at(r, c) - f), std::abs(take.at(r, c) - (1 - f))});
                }
            }
            CHECK(worst <= allowed);
            ops::forget_gate(exec, x.view(), lowest.view(), x.view(), take.view());
            CHECK(x.same_bits(keep));
        });
    }
}

TEST_CASE("recurrence: what a loop over tokens gives, in one step or in many") {
    for (const std::int64_t n : kWidths) {
        constexpr std::int64_t kTokens = 90;
        CAPTURE(n);
        on_all([&](const Exec& exec) {
            Guarded keep(exec, some_rows(kTokens, n, 7), kTokens);
            Guarded take(exec, some_rows(kTokens, n, 8), kTokens),
                before(exec, some_rows(1, n, 9), 1);
            for (std::int64_t t = 0; t < kTokens; ++t) {
                for (std::int64_t c = 0; c < n; ++c)
                    keep.set(t, c, 1 / (1 + std::abs(keep.at(t, c))));
            }
            Guarded whole(exec.dtype(), kTokens, n), pieces = whole;
            ops::recurrence(exec, keep.view(), take.view(), before.view(), whole.view());
            CHECK(whole.guards_hold());
            double worst = 0;
            for (std::int64_t c = 0; c < n; ++c) {
                double h = before.at(0, c);
                for (std::int64_t t = 0; t < kTokens; ++t) {
                    h = keep.at(t, c) * h + take.at(t, c);
                    worst = std::max(worst, std::abs(whole.at(t, c) - h));
                }
            }
            CHECK(worst <= (exec.dtype() == DType::kF64 ? 1e-13 : 1e-4));
            View state = before.view();
            for (std::int64_t first = 0; first < kTokens; first += 37) {
                const std::int64_t count = std::min<std::int64_t>(37, kTokens - first);
                ops::recurrence(exec, keep.view().slice_rows(first, count),
                                take.view().slice_rows(first, count), state,
                                pieces.view().slice_rows(first, count));
                state = pieces.view().slice_rows(first + count - 1, 1);
            }
            CHECK(pieces.same_bits(whole));
        });
    }
}
