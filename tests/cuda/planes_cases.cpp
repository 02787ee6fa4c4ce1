// SPDX-License-Identifier: Apache-2.0
#include "planes_cases.h"

#include <cmath>

#include "core/cpu.h"
#include "kernels/cpu/kernels.h"
#include "kernels/layout/half.h"
#include "ops/dispatch.h"

namespace thimble::cuda_test {
namespace {

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

std::vector<std::uint32_t> random_words(std::int64_t n, std::uint32_t seed) {
    std::vector<std::uint32_t> out(count(n));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = philox(seed, i / 4).v[i % 4];
    return out;
}

// Both factors as they are stored, on the host, and as whole numbers.
struct Factors {
    explicit Factors(const PlanesCase& c, bool scaled);
    std::vector<std::uint32_t> words;   // [rows, cols / 32, bits]
    std::vector<std::uint16_t> scales;  // [rows, cols / group]
    std::vector<std::uint32_t> x;       // [tokens, x_bits, plane_words]
    std::vector<float> x_scales;
    std::vector<std::int64_t> values, x_values;  // [rows, cols], [tokens, cols]
};

// The sum of +-2^b that bit `i` of words first, first + step, ... stands for.
std::int64_t value_of(const std::vector<std::uint32_t>& words, std::int64_t first,
                      std::int64_t step, int bits, int i) {
    std::int64_t value = 0;
    for (int b = 0; b < bits; ++b)
        value += (words[count(first + b * step)] >> i & 1) != 0 ? 1 << b : -(1 << b);
    return value;
}

Factors::Factors(const PlanesCase& c, bool scaled) {
    const std::int64_t tiles = c.cols / 32, stride = plane_words(c.cols);
    words = random_words(c.rows * tiles * c.bits, 1);
    x = random_words(c.tokens * c.x_bits * stride, 2);
    for (std::int64_t i = 0; i < std::ssize(x); ++i) {
        if (i % stride >= tiles) x[count(i)] = 0;
    }
    for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t k = 0; k < c.cols; ++k)
            values.push_back(value_of(words, (r * tiles + k / 32) * c.bits, 1, c.bits,
                                      static_cast<int>(k % 32)));
    }
    for (std::int64_t t = 0; t < c.tokens; ++t) {
        for (std::int64_t k = 0; k < c.cols; ++k)
            x_values.push_back(value_of(x, t * c.x_bits * stride + k / 32, stride, c.x_bits,
                                        static_cast<int>(k % 32)));
    }
    for (const float s : cuda_test::values(count(c.rows * (c.cols / c.group)), 3, 0.1f))
        scales.push_back(scaled ? f32_to_f16(s) : std::uint16_t{0x3c00});
    for (const float s : cuda_test::values(count(c.tokens), 4))
        x_scales.push_back(scaled ? s : 1.0f);
}

std::vector<float> run(const PlanesCase& c, const Factors& f, const std::vector<float>& bias,
                       const std::vector<float>& before, const PlanesKernel& kernel) {
    return run_all_orders([&] {
        const Array<std::uint32_t> words(f.words), x(f.x);
        const Array<std::uint16_t> scales(f.scales);
        const Array<float> x_scales(f.x_scales), b(bias), out(before);
        cuda::MatmulPlanes problem{};
        problem.weight.layout = LayoutId::k_bipolar;
        problem.weight.params = {c.bits, static_cast<std::int32_t>(c.group), ScaleType::kF16};
        problem.weight.planes[0] = reinterpret_cast<const std::byte*>(words.data());
        problem.weight.planes[1] = reinterpret_cast<const std::byte*>(scales.data());
        problem.weight.row_bytes[0] = count(c.cols / 8 * c.bits);
        problem.weight.row_bytes[1] = count(c.cols / c.group * 2);
        problem.weight.rows = c.rows, problem.weight.cols = c.cols;
        problem.x = x.data(), problem.x_scales = x_scales.data(), problem.x_bits = c.x_bits;
        problem.tokens = c.tokens;
        problem.out = out.data(), problem.out_stride = c.rows + c.out_gap;
        problem.bias = c.bias ? b.data() : nullptr, problem.accumulate = c.accumulate;
        kernel(problem, stream());
        return out.get();
    });
}

// What the CPU's kernel of this machine's best level makes of it.
std::vector<float> on_cpu(const PlanesCase& c, const Factors& f, const std::vector<float>& bias,
                          std::vector<float> out) {
    cpu::MatmulPlanes problem{};
    problem.words = reinterpret_cast<const std::byte*>(f.words.data());
    problem.scales = reinterpret_cast<const std::byte*>(f.scales.data());
    problem.word_bytes = count(c.cols / 8 * c.bits);
    problem.scale_bytes = count(c.cols / c.group * 2);
    problem.bits = c.bits, problem.x_bits = c.x_bits;
    problem.rows = c.rows, problem.cols = c.cols, problem.group = c.group;
    problem.x = f.x.data(), problem.x_scales = f.x_scales.data(), problem.tokens = c.tokens;
    problem.out = out.data(), problem.out_stride = c.rows + c.out_gap;
    problem.bias = c.bias ? bias.data() : nullptr, problem.accumulate = c.accumulate;
    ops::kernels(best_isa()).matmul_planes(problem);
    return out;
}

void capture_into(const PlanesCase& c, std::string& text) {
    text = "bits " + std::to_string(c.bits) + " x " + std::to_string(c.x_bits) + ", " +
           std::to_string(c.rows) + " rows of " + std::to_string(c.cols) + " in groups of " +
           std::to_string(c.group) + ", " + std::to_string(c.tokens) + " tokens";
}

}  // namespace

void check_whole_numbers(const PlanesCase& c, const PlanesKernel& kernel) {
    std::string text;
    capture_into(c, text);
    INFO(text);
    const Factors f(c, false);
    const std::vector<float> got =
        run(c, f, std::vector<float>(count(c.rows)),
            std::vector<float>(count(c.tokens * (c.rows + c.out_gap)), -1.0f), kernel);
    for (std::int64_t t = 0; t < c.tokens; ++t) {
        for (std::int64_t r = 0; r < c.rows; ++r) {
            std::int64_t want = 0;
            for (std::int64_t k = 0; k < c.cols; ++k)
                want += f.values[count(r * c.cols + k)] * f.x_values[count(t * c.cols + k)];
            REQUIRE(got[count(t * (c.rows + c.out_gap) + r)] == static_cast<float>(want));
        }
    }
}

void check_widths(std::int64_t tokens, const PlanesKernel& kernel) {
    struct Shape {
        std::int64_t cols, group;
    };
    constexpr Shape kShapes[] = {{96, 32}, {192, 64}, {256, 128}};
    for (int bits = 1; bits <= 8; ++bits) {
        for (int x_bits = 1; x_bits <= 8; ++x_bits) {
            for (const Shape& shape : kShapes)
                check_whole_numbers({bits, x_bits, 19, shape.cols, shape.group, tokens}, kernel);
        }
    }
}

std::vector<float> check_scaled(const PlanesCase& c, const PlanesKernel& kernel) {
    std::string text;
    capture_into(c, text);
    INFO(text);
    const Factors f(c, true);
    const std::int64_t stride = c.rows + c.out_gap;
    const std::vector<float> bias = values(count(c.rows), 5);
    const std::vector<float> before = values(count(c.tokens * stride), 6);
    const std::vector<float> got = run(c, f, bias, before, kernel);
    const std::vector<float> cpu = on_cpu(c, f, bias, before);
    constexpr double kEpsilon = 0x1p-23;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
        for (std::int64_t r = 0; r < stride; ++r) {
            const std::size_t at = count(t * stride + r);
            if (r >= c.rows) {
                REQUIRE(got[at] == before[at]);
                continue;
            }
            double sum = 0, size = 0;  // of a group's product each
            for (std::int64_t g = 0; g < c.cols / c.group; ++g) {
                std::int64_t dot = 0;
                for (std::int64_t k = g * c.group; k < (g + 1) * c.group; ++k)
                    dot += f.values[count(r * c.cols + k)] * f.x_values[count(t * c.cols + k)];
                const float scale = f16_to_f32(f.scales[count(r * (c.cols / c.group) + g)]);
                sum += static_cast<double>(scale) * static_cast<double>(dot);
                size += std::abs(static_cast<double>(scale) * static_cast<double>(dot));
            }
            const auto x_scale = static_cast<double>(f.x_scales[count(t)]);
            double want = sum * x_scale;
            if (c.bias) want += static_cast<double>(bias[count(r)]);
            if (c.accumulate) want += static_cast<double>(before[at]);
            // Tiles of 32 are added one by one, of values that may be as large as all of a group.
            const double tiles = static_cast<double>(c.cols) / 32;
            const double largest = static_cast<double>((1 << c.bits) * (1 << c.x_bits)) * 32 * 0.4;
            const double tolerance =
                kEpsilon * (std::abs(x_scale) * (size + largest) * std::sqrt(tiles) + 8);
            REQUIRE(std::abs(static_cast<double>(got[at]) - want) <= tolerance);
            REQUIRE(std::abs(static_cast<double>(cpu[at]) - want) <= tolerance);
        }
    }
    return got;
}

}  // namespace thimble::cuda_test
