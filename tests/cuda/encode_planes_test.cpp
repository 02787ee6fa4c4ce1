// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "core/cpu.h"
#include "harness.h"
#include "kernels/cpu/kernels.h"
#include "ops/dispatch.h"

namespace thimble::cuda_test {
namespace {

struct Planes {
    std::vector<std::uint32_t> words;
    std::vector<float> scales;
};

Planes on_device(const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                 std::int64_t stride, int bits) {
    const auto words = static_cast<std::size_t>(rows * bits * plane_words(cols));
    const std::vector<float> all = run_all_orders([&] {
        const Array<float> dx(x);
        const Array<std::uint32_t> planes(words);
        const Array<float> scales(static_cast<std::size_t>(rows));
        cuda::encode_planes({dx.data(), rows, cols, stride, bits, planes.data(), scales.data()},
                            stream());
        std::vector<float> out = scales.get();
        for (const std::uint32_t word : planes.get()) {  // halves: floats hold them
            out.push_back(static_cast<float>(word & 0xffffu));
            out.push_back(static_cast<float>(word >> 16));
        }
        return out;
    });
    Planes out;
    out.scales.assign(all.begin(), all.begin() + rows);
    for (std::size_t i = static_cast<std::size_t>(rows); i < all.size(); i += 2)
        out.words.push_back(static_cast<std::uint32_t>(all[i]) |
                            static_cast<std::uint32_t>(all[i + 1]) << 16);
    return out;
}

Planes on_cpu(Isa isa, const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
              std::int64_t stride, int bits) {
    const std::int64_t words = bits * plane_words(cols);
    Planes out;
    out.words.resize(static_cast<std::size_t>(rows * words));
    out.scales.resize(static_cast<std::size_t>(rows));
    for (std::int64_t r = 0; r < rows; ++r)
        ops::kernels(isa).encode_planes({x.data() + r * stride, cols, bits,
                                         out.words.data() + r * words, out.scales.data() + r});
    return out;
}

void check_as_on_cpu(const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                     std::int64_t stride, int bits) {
    const Planes got = on_device(x, rows, cols, stride, bits);
    for (int isa = 0; isa <= static_cast<int>(best_isa()); ++isa) {
        CAPTURE(isa);
        const Planes want = on_cpu(static_cast<Isa>(isa), x, rows, cols, stride, bits);
        CHECK(got.scales == want.scales);
        CHECK(got.words == want.words);
    }
}

// Values halfway between two codes as nearly as floats are, and their neighbours.
void at_bounds(std::span<float> row, int bits) {
    const int most = (1 << bits) - 1;
    row[0] = 1.2345678f;
    const double scale = static_cast<double>(row[0] / static_cast<float>(most));
    for (std::size_t k = 1; k < row.size(); ++k) {
        const auto code = static_cast<int>(k / 3) % most;
        row[k] = static_cast<float>(scale * (2 * code + 1 - most));
        if (k % 3 != 0) row[k] = std::nextafter(row[k], k % 3 == 1 ? -10.0f : 10.0f);
    }
}

}  // namespace

void check_encode_planes() {
    constexpr std::int64_t kRows = 5, kCols = 800, kStride = kCols + 3;
    auto x = values(static_cast<std::size_t>(kRows * kStride), 1);
    for (std::int64_t r = 0; r < kRows; ++r) {  // what lies between rows is not read
        for (std::int64_t k = kCols; k < kStride; ++k)
            x[static_cast<std::size_t>(r * kStride + k)] = std::numeric_limits<float>::quiet_NaN();
    }
    std::fill_n(x.begin() + kStride, kCols, 0.0f);           // a row of zeros
    x[2 * kStride + 7] = 1e30f, x[2 * kStride + 8] = -0.0f;  // one that is nearly zero
    for (std::int64_t k = 0; k < kCols; ++k)                 // ties, and a scale of 1
        x[static_cast<std::size_t>(3 * kStride + k)] = static_cast<float>(k % 16 - 8);
    for (int bits = 1; bits <= 8; ++bits) {
        at_bounds(std::span(x).subspan(4 * kStride, kCols), bits);
        for (const std::int64_t cols : {std::int64_t{32}, kCols}) {
            CAPTURE(bits);
            CAPTURE(cols);
            check_as_on_cpu(x, kRows, cols, kStride, bits);
        }
        // Codes by their definition: x / scale is within 1 of 2 u - most.
        const Planes one = on_device(x, 1, kCols, kStride, bits);
        const int most = (1 << bits) - 1;
        for (std::int64_t k = 0; bits > 1 && k < kCols; ++k) {
            int value = -most;
            for (int j = 0; j < bits; ++j) {
                const auto word = static_cast<std::size_t>(j * plane_words(kCols) + k / 32);
                value += static_cast<int>(one.words[word] >> (k % 32) & 1u) << (j + 1);
            }
            REQUIRE(std::abs(x[static_cast<std::size_t>(k)] / one.scales[0] -
                             static_cast<float>(value)) <= 1.0001f);
        }
    }
    // Sums of few columns, whose order shows.
    check_as_on_cpu(values(40 * 32, 3), 40, 32, 32, 1);
    check_as_on_cpu(values(40 * 288, 4), 40, 288, 288, 1);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        for (const int bits : {1, 4}) {
            auto y = values(64, 2);
            y[40] = bad;
            const Array<float> dy(y);
            const Array<std::uint32_t> planes(static_cast<std::size_t>(2 * bits * kPlaneWords));
            const Array<float> scales(2);
            cuda::encode_planes({dy.data(), 2, 32, 32, bits, planes.data(), scales.data()},
                                stream());
            CHECK(std::isfinite(scales.get()[0]));
            CHECK(std::isnan(scales.get()[1]));
        }
    }
    CHECK_FALSE(cuda::supports_encode_planes({nullptr, 1, 48, 48, 4, nullptr, nullptr}));
    CHECK_FALSE(cuda::supports_encode_planes({nullptr, 1, 64, 64, 9, nullptr, nullptr}));
    CHECK_FALSE(cuda::supports_encode_planes({nullptr, 1, 64, 64, 0, nullptr, nullptr}));
}

}  // namespace thimble::cuda_test
