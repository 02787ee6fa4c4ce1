// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "harness.h"

namespace thimble::cuda_test {

namespace {

// One block as the definition has it.
struct Block {
    std::int8_t codes[32];
    float scale, sums[2];
};
Block by_definition(const float* x) {
    Block b{};
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
    b.scale = largest / 127.0f;
    const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    int sums[2] = {};
    for (int i = 0; i < 32; ++i) {
        b.codes[i] = static_cast<std::int8_t>(std::nearbyint(x[i] * inverse));
        sums[i / 16] += b.codes[i];
    }
    for (int h = 0; h < 2; ++h) b.sums[h] = b.scale * static_cast<float>(sums[h]);
    return b;
}

}  // namespace

void check_quantise_i8() {
    for (const std::int64_t rows : {0, 1, 5}) {
        for (const std::int64_t cols : {32, 576}) {
            CAPTURE(rows);
            CAPTURE(cols);
            const std::int64_t stride = cols + 3, blocks = rows * cols / 32;
            auto x = values(static_cast<std::size_t>(rows * stride), 1);
            if (cols == 576 && rows > 1) {
                for (int i = 0; i < 32; ++i) x[static_cast<std::size_t>(i)] = 0;
                x[40] = 1e-31f, x[64] = 127, x[65] = 0.5f, x[66] = 1.5f, x[67] = -2.5f;
                x[100] = 1e30f;
            }
            const std::vector<float> all = run_all_orders([&] {
                const Array<float> dx(x);
                Array<std::int8_t> codes(static_cast<std::size_t>(rows * cols));
                Array<float> scales(static_cast<std::size_t>(blocks)), sums(2 * scales.size());
                cuda::quantise_i8(
                    {dx.data(), rows, cols, stride, codes.data(), scales.data(), sums.data()},
                    stream());
                std::vector<float> out = scales.get();
                for (const float s : sums.get()) out.push_back(s);
                for (const std::int8_t code : codes.get()) out.push_back(code);
                return out;
            });
            REQUIRE(std::ssize(all) == blocks * 35);
            for (std::int64_t b = 0; b < blocks; ++b) {
                CAPTURE(b);
                const Block want =
                    by_definition(x.data() + b / (cols / 32) * stride + b % (cols / 32) * 32);
                CHECK(all[static_cast<std::size_t>(b)] == want.scale);
                for (std::int64_t i = 0; i < 2; ++i)
                    CHECK(all[static_cast<std::size_t>(blocks + 2 * b + i)] == want.sums[i]);
                for (std::int64_t i = 0; i < 32; ++i)
                    REQUIRE(all[static_cast<std::size_t>(3 * blocks + 32 * b + i)] ==
                            want.codes[i]);
            }
        }
    }
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        auto x = values(64, 2);
        x[40] = bad;
        const Array<float> dx(x);
        Array<std::int8_t> codes(64);
        Array<float> scales(2), sums(4);
        cuda::quantise_i8({dx.data(), 1, 64, 64, codes.data(), scales.data(), sums.data()},
                          stream());
        CHECK(std::isfinite(scales.get()[0]));
        CHECK(std::isnan(scales.get()[1]));
    }
    CHECK_FALSE(cuda::supports_quantise_i8({nullptr, 1, 48, 48, nullptr, nullptr, nullptr}));
}

}  // namespace thimble::cuda_test
