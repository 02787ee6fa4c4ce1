// SPDX-License-Identifier: Apache-2.0
#include "harness.h"
#include "kernels/ref/gradients.h"

namespace thimble::cuda_test {
namespace {

// `place`: what dgate and dup replace: 0 nothing, 1 gate and up, 2 dy and gate.
void check_case(cuda::Activation activation, std::int64_t rows, std::int64_t cols,
                std::size_t offset, std::int64_t gap, float size, int place) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(place);
    const std::int64_t stride = cols + gap;
    const std::size_t n = offset + static_cast<std::size_t>(rows * stride);
    const auto gate = values(n, 4, size), up = values(n, 5), dy = values(n, 6);
    std::vector<float> dup;
    const std::vector<float> dgate = run_all_orders([&] {
        const Array<float> g(gate), u(up), d(dy), free_g(gate), free_u(up);
        float* to_gate = place == 0 ? free_g.data() : place == 1 ? g.data() : d.data();
        float* to_up = place == 0 ? free_u.data() : place == 1 ? u.data() : g.data();
        cuda::glu_backward({.activation = activation,
                            .gate = g.data() + offset,
                            .up = u.data() + offset,
                            .dy = d.data() + offset,
                            .dgate = to_gate + offset,
                            .dup = to_up + offset,
                            .rows = rows,
                            .cols = cols,
                            .gate_stride = stride,
                            .up_stride = stride,
                            .dy_stride = stride,
                            .dgate_stride = stride,
                            .dup_stride = stride},
                           stream());
        dup = (place == 0 ? free_u : place == 1 ? u : g).get();
        return (place == 0 ? free_g : place == 1 ? g : d).get();
    });
    const auto& under_gate = place == 2 ? dy : gate;
    const auto& under_up = place == 2 ? gate : up;
    std::vector<double> want_gate(under_gate.begin(), under_gate.end());
    std::vector<double> want_up(under_up.begin(), under_up.end());
    for (std::size_t i = offset; i < n; ++i) {
        if (static_cast<std::int64_t>(i - offset) % stride >= cols) continue;
        const auto g = static_cast<double>(gate[i]), u = static_cast<double>(up[i]);
        const auto d = static_cast<double>(dy[i]);
        const bool silu = activation == cuda::Activation::kSilu;
        want_gate[i] = d * u * (silu ? ref::silu_slope(g) : ref::gelu_tanh_slope(g));
        want_up[i] = d * (silu ? ref::silu(g) : ref::gelu_tanh(g));
    }
    // Roundings, of products of at most 3.5 and 3.5 with a slope below 1.2 made of terms that grow
    // like the gate, and with the activation.
    check_close(dgate, want_gate, 64 * 0x1p-24 * 12);
    check_close(dup, want_up, 8 * 0x1p-24 * 12 * static_cast<double>(size));
}

}  // namespace

void check_glu_backward() {
    for (const cuda::Activation a : {cuda::Activation::kSilu, cuda::Activation::kGeluTanh}) {
        for (const int place : {0, 1, 2}) {
            check_case(a, 0, 8, 0, 0, 1, place);
            check_case(a, 1, 1, 0, 0, 1, place);
            check_case(a, 3, 64, 0, 4, 1, place);
            check_case(a, 2, 35, 1, 2, 1, place);
            check_case(a, 1, 700, 0, 0, 40, place);  // from far below zero, where the gate closes
        }
    }
}

}  // namespace thimble::cuda_test
