// SPDX-License-Identifier: Apache-2.0
// Dense products of training and the backward of attention, on one thread, shapes of a 135M llama.
// Every iteration also times one call of the dense GEMM on operands that lie ready, of the same
// shape (attention: 512 cubed), so a busy machine does not matter: of_plain is our speed as a part
// of the GEMM's.
#include <benchmark/benchmark.h>

#include <ctime>

#include "kernels/cpu/dense/gemm.h"
#include "ops/gradients.h"
#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

double seconds() {  // of this thread
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Clock {
    double ours = 0, plain = 0;
    template <class Ours, class Plain>
    void turn(benchmark::State& state, Ours&& run_ours, Plain&& run_plain) {
        const double a = seconds();
        run_plain();
        const double b = seconds();
        run_ours();
        const double c = seconds();
        state.SetIterationTime(c - b);
        plain += b - a, ours += c - b;
    }
};

enum class Pass : std::uint8_t { kForward, kBackward, kWeights };

void dense(benchmark::State& state, Pass pass, LayoutId layout, Activations kind, Shape2 shape,
           std::int64_t tokens) {
    Machine m(best_isa(), 1, std::size_t{64} << 20);
    m.exec.products = Products::kDense, m.exec.activations = kind;
    const Matrix weight = make_matrix(layout, shape, 320);
    Guarded x(m.exec, Random(321).normals(tokens * shape.cols), tokens);
    Guarded y(m.exec, Random(322).normals(tokens * shape.rows), tokens);
    Guarded dw(m.exec, Random(323).normals(shape.rows * shape.cols), shape.rows);
    const bool bf16 = kind == Activations::kBf16 && ops::has_bf16_products(m.exec.isa);
    const std::size_t unit = bf16 ? 2 : 4;
    std::vector<std::byte> a(static_cast<std::size_t>(tokens * std::max(shape.rows, shape.cols)) *
                             unit),
        b(static_cast<std::size_t>(std::max(tokens, shape.rows) * shape.cols) * unit);
    cpu::Gemm g{};
    g.bf16 = bf16;
    switch (pass) {
        case Pass::kForward:
            g.m = tokens, g.n = shape.rows, g.k = shape.cols;
            g.a = {a.data(), g.k, 1}, g.b = {b.data(), 1, g.k}, g.c = y.view().row<float>(0);
            g.c_stride = y.view().stride;
            break;
        case Pass::kBackward:
            g.m = tokens, g.n = shape.cols, g.k = shape.rows;
            g.a = {a.data(), g.k, 1}, g.b = {b.data(), g.n, 1}, g.c = x.view().row<float>(0);
            g.c_stride = x.view().stride;
            break;
        case Pass::kWeights:
            g.m = shape.rows, g.n = shape.cols, g.k = tokens;
            g.a = {a.data(), 1, g.m}, g.b = {b.data(), g.n, 1}, g.c = dw.view().row<float>(0);
            g.c_stride = dw.view().stride, g.accumulate = true;
            break;
    }
    Clock clock;
    ops::MatmulInput from_x(m.exec, x.view()), from_y(m.exec, y.view());
    for (auto _ : state) {
        const auto ours = [&] {
            if (pass == Pass::kForward)
                ops::matmul(m.exec, from_x, {weight.view, y.view(), std::nullopt, false});
            if (pass == Pass::kBackward)
                ops::matmul_t(m.exec, from_y, weight.view, x.view(), false);
            if (pass == Pass::kWeights) ops::weight_gradient(m.exec, from_y, from_x, dw.view());
        };
        clock.turn(state, ours, [&] { cpu::gemm(g); });
    }
    state.SetItemsProcessed(state.iterations() * 2 * tokens * shape.rows * shape.cols);
    state.counters["of_plain"] = clock.plain / clock.ours;
}

// Multiplications and additions are those of the five products that causality leaves.
void attention_backward(benchmark::State& state, Activations kind, std::int64_t tokens) {
    constexpr int kHeads = 9, kKvHeads = 3, kDim = 64;
    Machine m(best_isa(), 1, std::size_t{256} << 20);
    m.exec.products = Products::kDense, m.exec.activations = kind;
    const auto made = [&](std::uint64_t seed, std::int64_t cols) {
        return Guarded(m.exec, Random(seed).normals(tokens * cols), tokens);
    };
    Guarded q = made(330, kHeads * kDim), k = made(331, kKvHeads * kDim);
    Guarded v = made(332, kKvHeads * kDim), dout = made(333, kHeads * kDim);
    Guarded dq = made(334, kHeads * kDim), dk = k, dv = v;
    ops::AttentionGradient a;
    a.q = q.view(), a.k = k.view(), a.v = v.view(), a.dout = dout.view();
    a.dq = dq.view(), a.dk = dk.view(), a.dv = dv.view();
    a.heads = kHeads, a.kv_heads = kKvHeads, a.head_dim = kDim, a.scale = 0.125;
    const bool bf16 = kind == Activations::kBf16 && ops::has_bf16_products(m.exec.isa);
    std::vector<float> s(1024 * 1024), t(1024 * 1024), c(1024 * 1024);
    const cpu::Gemm g = {bf16,     512, 512,  512, {s.data(), 512, 1}, {t.data(), 512, 1},
                         c.data(), 512, false};
    Clock clock;
    for (auto _ : state)
        clock.turn(
            state, [&] { ops::attention_backward(m.exec, a); }, [&] { cpu::gemm(g); });
    const std::int64_t work = 5 * kHeads * kDim * tokens * (tokens + 1);
    state.SetItemsProcessed(state.iterations() * work);
    state.counters["of_plain"] =
        clock.plain / clock.ours * static_cast<double>(work) / (2.0 * 512 * 512 * 512);
}

const bool kRegistered = [] {
    const std::pair<Pass, const char*> passes[] = {
        {Pass::kForward, "forward/"}, {Pass::kBackward, "backward/"}, {Pass::kWeights, "weights/"}};
    for (const Activations kind : {Activations::kF32, Activations::kBf16}) {
        const std::string held = kind == Activations::kF32 ? "f32" : "bf16";
        for (const std::int64_t tokens : {512, 2048}) {
            for (const auto& [pass, title] : passes) {
                for (const char* format : {"f32", "bf16", "q4_0", "q4_k", "nf4"}) {
                    if (pass == Pass::kWeights && std::string(format) != "f32") continue;
                    const LayoutId layout = weight_formats().get(format, "format").info().layout;
                    for (Shape2 shape : {Shape2{576, 576}, Shape2{1536, 576}, Shape2{576, 1536}}) {
                        if (layout == LayoutId::k_q4_k) shape.cols = (shape.cols + 255) / 256 * 256;
                        const std::string name =
                            "dense/" + held + "/" + title + format + "/" + std::to_string(tokens) +
                            "x" + std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
                        benchmark::RegisterBenchmark(name.c_str(), dense, pass, layout, kind, shape,
                                                     tokens)
                            ->UseManualTime();
                    }
                }
            }
            benchmark::RegisterBenchmark(
                ("attention_backward/" + held + "/" + std::to_string(tokens)).c_str(),
                attention_backward, kind, tokens)
                ->UseManualTime();
        }
    }
    return true;
}();

}  // namespace
