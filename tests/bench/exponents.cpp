// SPDX-License-Identifier: Apache-2.0
// Coded exponents (kernels/layout/exponent_code.h): bytes of bfloat16 a second that one core codes
// and decodes, and a product with coded weights beside the same with plain ones.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "codec/exponent_coder.h"
#include "core/cpu.h"
#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"
#include "ops/exponents.h"
#include "ops/ops.h"

using namespace thimble;

namespace {

// Rows of normal weights.
struct Weights {
    explicit Weights(Shape2 shape) : chunks{shape.rows, shape.cols} {
        numbers.resize(static_cast<std::size_t>(chunks.numbers()));
        for (std::size_t i = 0; i < numbers.size(); ++i) {
            float sum = -2;
            for (const std::uint32_t v : philox(1, i).v) sum += unit_float(v);
            numbers[i] = static_cast<std::uint16_t>(float_to_bits(0.03f * sum) >> 16);
        }
        ExponentCounts counts{};
        count_exponents(numbers, counts);
        code = best_code(counts);
        encode();
    }
    void encode() {
        const ExponentCoder coder(code);
        std::vector<std::uint16_t> woven(static_cast<std::size_t>(chunks.strip_numbers())), some;
        words.clear(), rest.clear(), starts.assign(1, 0);
        for (std::int64_t s = 0; s < chunks.strips(); ++s) {
            chunks.weave(s, numbers.data() + s * chunks.strip_numbers(), woven.data());
            for (std::int64_t c = 0; c < chunks.chunks_of_strip(); ++c) {
                const auto from = static_cast<std::size_t>(chunks.start(s, c));
                const auto until = static_cast<std::size_t>(chunks.start(s, c + 1));
                const auto part = std::span(woven).subspan(from, until - from);
                coder.encode(part, some);
                words.insert(words.end(), some.begin(), some.end());
                starts.push_back(static_cast<std::uint32_t>(words.size()));
                for (const std::uint16_t x : part) rest.push_back(rest_of_bf16(x));
            }
        }
    }
    [[nodiscard]] ops::CodedMatrix matrix(Isa isa) {
        words.resize(starts.back() + 1024);  // which may be read
        return {code,
                chunks,
                {words.data(), words.data() + words.size(), rest.data(), starts.data()},
                isa};
    }
    ExponentChunks chunks;
    ExponentCode code;
    std::vector<std::uint16_t> numbers, words;
    std::vector<std::uint32_t> starts;
    std::vector<std::uint8_t> rest;
};

constexpr Shape2 kShape{1536, 576};

void set_bytes(benchmark::State& state) {
    state.SetBytesProcessed(state.iterations() * kShape.rows * kShape.cols * 2);
}

void encode(benchmark::State& state) {
    Weights w(kShape);
    for (auto _ : state) w.encode();
    set_bytes(state);
}

void decode(benchmark::State& state, Isa isa) {
    Weights w(kShape);
    const ops::CodedMatrix matrix = w.matrix(isa);
    const std::int64_t together = matrix.strips_at_once(), strips = w.chunks.strips();
    std::vector<std::uint16_t> out(static_cast<std::size_t>(together) * matrix.strip_bytes() / 2);
    for (auto _ : state) {
        for (std::int64_t s = 0; s < strips; s += together) {
            if (!matrix.decode_groups(s, std::min(together, strips - s), out.data()))
                state.SkipWithError("damaged");
            benchmark::ClobberMemory();
        }
    }
    set_bytes(state);
}

void product(benchmark::State& state, bool coded) {
    Weights w(kShape);
    const Isa isa = best_isa();
    const ops::CodedMatrix matrix = w.matrix(isa);
    Team team(1);
    Workspace workspace(1 << 20);
    Exec exec;
    exec.isa = isa, exec.team = &team, exec.workspace = &workspace;
    const std::size_t row_bytes = 2 * static_cast<std::size_t>(kShape.cols);
    PackedView view;
    view.layout = LayoutId::k_bf16, view.shape = kShape, view.n_planes = 1;
    view.planes[0] = {reinterpret_cast<const std::byte*>(w.numbers.data()), row_bytes,
                      2 * w.numbers.size()};
    std::vector<std::byte> woven(ops::packed_bytes(LayoutId::k_bf16_x16, kShape));
    const PackedView plain = ops::repack(exec, view, LayoutId::k_bf16_x16, woven.data());
    view.coded = &matrix;
    std::vector<float> x(static_cast<std::size_t>(kShape.cols), 1);
    std::vector<float> y(static_cast<std::size_t>(kShape.rows));
    for (auto _ : state) {
        ops::MatmulInput input(exec, {x.data(), DType::kF32, 1, kShape.cols, kShape.cols});
        ops::matmul(exec, input,
                    ops::Matmul{coded ? view : plain,
                                {y.data(), DType::kF32, 1, kShape.rows, kShape.rows},
                                std::nullopt,
                                false});
        benchmark::DoNotOptimize(y.data());
    }
    set_bytes(state);
}

const bool kRegistered = [] {
    benchmark::RegisterBenchmark("exponents/encode", encode);
    for (int i = 0; i <= static_cast<int>(best_isa()); ++i) {
        const Isa isa = static_cast<Isa>(i);
        benchmark::RegisterBenchmark(("exponents/decode/" + std::string(name(isa))).c_str(), decode,
                                     isa);
    }
    benchmark::RegisterBenchmark("exponents/product/plain", product, false);
    benchmark::RegisterBenchmark("exponents/product/coded", product, true);
    return true;
}();

}  // namespace
