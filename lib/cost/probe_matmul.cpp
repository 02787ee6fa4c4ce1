// SPDX-License-Identifier: Apache-2.0
// Matmul rates of the kernels that prefill uses: a float weight with float input, and 8-bit blocks
// with 8-bit input, in their resident layouts; and of the dense products that training uses.
#include <array>
#include <cstring>

#include "cost/probe.h"
#include "cost/timing.h"
#include "format/weight_format.h"
#include "ops/ops.h"

namespace thimble::cost {
namespace {

constexpr Shape2 kShape = {2048, 2048};
constexpr std::int64_t kTokens = 256;

class OneBuffer final : public PlaneSink {
  public:
    explicit OneBuffer(std::size_t bytes) : buffer(bytes, Purpose::kOther) {}
    void append(int, std::span<const std::byte> bytes) override {
        std::memcpy(buffer.data() + used, bytes.data(), bytes.size());
        used += bytes.size();
    }
    Buffer buffer;
    std::size_t used = 0;
};

// Small values without a pattern that a kernel could profit from.
void fill(std::span<float> out) {
    std::uint32_t state = 12345;
    for (float& v : out) {
        state = state * 1664525u + 1013904223u;
        v = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-33F;
    }
}

struct Case {
    const char* format = "f32";
    Activations activations = Activations::kF32;
    Products products = Products::kPacked;
};

double ops_per_second(Team& team, Isa isa, const Case& what, std::int64_t repeats) {
    const WeightFormat& format = weight_formats().get(what.format, "probe");
    Buffer weights(static_cast<std::size_t>(kShape.rows * kShape.cols) * sizeof(float),
                   Purpose::kOther);
    fill(weights.span<float>());
    const PlaneInfo plane = format.planes(kShape, {}).front();
    OneBuffer stored(plane.bytes);
    format.encoder(kShape, {})->encode(0, weights.span<float>(), stored);

    PackedView view{format.info().layout, kShape, {}, 1};
    view.planes[0] = {stored.buffer.data(), plane.row_bytes, plane.bytes};
    Exec exec;
    exec.isa = isa, exec.activations = what.activations, exec.team = &team;
    exec.products = what.products;
    Workspace workspace(ops::matmul_input_bytes(exec, kTokens, kShape.cols) +
                        ops::matmul_bytes(exec, kShape));
    exec.workspace = &workspace;
    Buffer resident;
    const auto layout = ops::resident_layout(view.layout);
    if (layout && what.products == Products::kPacked) {
        resident = Buffer(ops::packed_bytes(*layout, kShape), Purpose::kOther);
        view = ops::repack(exec, view, *layout, resident.data());
    }

    Buffer input(static_cast<std::size_t>(kTokens * kShape.cols) * sizeof(float), Purpose::kOther);
    Buffer output(static_cast<std::size_t>(kTokens * kShape.rows) * sizeof(float), Purpose::kOther);
    fill(input.span<float>());
    const View x{input.data(), DType::kF32, kTokens, kShape.cols, kShape.cols};
    const View y{output.data(), DType::kF32, kTokens, kShape.rows, kShape.rows};
    const double seconds = median_seconds(repeats, [&] {
        ops::MatmulInput shared(exec, x);
        ops::matmul(exec, shared, {view, y, {}, false});
    });
    return 2.0 * static_cast<double>(kTokens * kShape.rows * kShape.cols) / seconds;
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

}  // namespace thimble::cost
