// SPDX-License-Identifier: Apache-2.0
// Matmul rates of the kernels that models use, weights in their resident layouts: a float weight
// with float input, 8-bit blocks with 8-bit input, and common layouts with the input they get; and
// of the dense products that training uses.
#include <algorithm>
#include <array>

#include "cost/probe.h"
#include "cost/probe_matrix.h"
#include "cost/timing.h"
#include "format/weight_format.h"
#include "ops/ops.h"

namespace thimble::cost {
namespace {

constexpr Shape2 kShape = {2048, 2048}, kNarrow = {2048, 512};
constexpr std::int64_t kTokens = 256;

struct Case {
    const char* format = "f32";
    Activations activations = Activations::kF32;
    Products products = Products::kPacked;
};

double ops_per_second(Team& team, Isa isa, const Case& what, std::int64_t repeats) {
    Exec exec;
    exec.isa = isa, exec.activations = what.activations, exec.team = &team;
    exec.products = what.products;
    const ProbeMatrix matrix =
        make_matrix(exec, weight_formats().get(what.format, "probe"), kShape);
    return ops_of(kShape, kTokens) /
           seconds_of_products(exec, matrix, kShape.rows, kTokens, repeats);
}

}  // namespace

MatmulRates matmul_rates(Team& team, Isa isa, std::int64_t repeats) {
    constexpr Case kCases[] = {{},
                               {"q8_0", Activations::kI8, Products::kPacked},
                               {"f32", Activations::kF32, Products::kDense},
                               {"bf16", Activations::kBf16, Products::kDense}};
    std::array<double, 4> rates{};
    for (std::size_t i = 0; i < rates.size(); ++i)
        rates[i] = ops_per_second(team, isa, kCases[i], repeats);
    return {rates[0], rates[1], rates[2], rates[3]};
}

LayoutRate layout_rate(Team& team, Isa isa, const char* format_name, std::int64_t far_bytes,
                       std::int64_t repeats) {
    Exec exec;
    exec.isa = isa, exec.team = &team;
    const WeightFormat& format = weight_formats().get(format_name, "probe");
    LayoutRate out;
    out.layout = layout_info(format.info().layout).name;
    const auto many = [&](Shape2 shape) {
        return ops_of(shape, kTokens) / seconds_of_products(exec, make_matrix(exec, format, shape),
                                                            shape.rows, kTokens, repeats);
    };
    out.wide_ops_per_second = many(kShape);
    out.narrow_ops_per_second = many(kNarrow);
    // Matrices one after the other, as a model has them, so many that no cache holds them.
    const auto far = [&](Shape2 shape, std::int64_t rows) {
        const auto row_bytes =
            static_cast<std::int64_t>(format.planes(shape, {}).front().row_bytes);
        shape.rows = std::max(far_bytes / row_bytes / rows, std::int64_t{1}) * rows;
        return static_cast<double>(shape.rows * row_bytes) /
               seconds_of_products(exec, make_matrix(exec, format, shape), rows, 1, repeats);
    };
    out.wide_read_bytes_per_second = far(kShape, kShape.rows);
    out.narrow_read_bytes_per_second = far(kNarrow, kNarrow.rows);
    return out;
}

double calls_per_second(Team& team, Isa isa, std::int64_t repeats) {
    constexpr std::int64_t kCalls = 1000;
    constexpr Shape2 kSmall = {512, 32};  // just so many rows that all threads take part
    Exec exec;
    exec.isa = isa, exec.team = &team;
    const ProbeMatrix matrix = make_matrix(exec, weight_formats().get("q8_0", "probe"), kSmall);
    Workspace workspace(ops::matmul_input_bytes(exec, 1, kSmall.cols) +
                        ops::matmul_bytes(exec, matrix.view.shape));
    exec.workspace = &workspace;
    std::array<float, kSmall.cols> in{};
    std::array<float, kSmall.rows> out{};
    const View x{reinterpret_cast<std::byte*>(in.data()), DType::kF32, 1, kSmall.cols, kSmall.cols};
    const View y{reinterpret_cast<std::byte*>(out.data()), DType::kF32, 1, kSmall.rows,
                 kSmall.rows};
    return static_cast<double>(kCalls) / median_seconds(repeats, [&] {
               for (std::int64_t i = 0; i < kCalls; ++i) {
                   ops::MatmulInput shared(exec, x);
                   ops::matmul(exec, shared, {matrix.view, y, {}, false});
               }
           });
}

double elementwise_bandwidth(Team& team, Isa isa, std::int64_t repeats) {
    Exec exec;
    exec.isa = isa, exec.team = &team;
    const auto elements = static_cast<std::size_t>(kTokens * kShape.cols);
    Buffer input(elements * sizeof(float), Purpose::kOther), output(input.bytes(), Purpose::kOther);
    Buffer weight(static_cast<std::size_t>(kShape.cols) * sizeof(float), Purpose::kOther);
    fill(input.span<float>());
    fill(weight.span<float>());
    const View x{input.data(), DType::kF32, kTokens, kShape.cols, kShape.cols};
    const View y{output.data(), DType::kF32, kTokens, kShape.cols, kShape.cols};
    const View w{weight.data(), DType::kF32, 1, kShape.cols, kShape.cols};
    return 2.0 * static_cast<double>(input.bytes()) /
           median_seconds(repeats, [&] { ops::rms_norm(exec, x, w, 1e-5, y); });
}

}  // namespace thimble::cost
