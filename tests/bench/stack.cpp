// SPDX-License-Identifier: Apache-2.0
// Products with matrices in signed blocks of rank 16, the two formulations beside each other and
// beside the dense product in F32: items_per_second counts weights times blocks, so that the
// formulations compare; of the dense product weights.
#include <benchmark/benchmark.h>

#include "model/stacked_tensor.h"
#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kLevels = 8, kRank = 16;

struct Blocks {
    explicit Blocks(Shape2 shape) : form(shape, kRank), room(ops::stack_room_bytes(shape) / 4) {
        Random random(9);
        for (std::int64_t level = 0; level < kLevels; ++level) {
            auto& bytes = memory.emplace_back(form.bytes);
            for (std::size_t i = 0; i < form.sign_bytes; ++i)
                bytes[i] = static_cast<std::byte>(random.unit() * 256);
            auto* factors = reinterpret_cast<std::uint16_t*>(bytes.data() + form.a);
            for (std::int64_t i = 0; i < (shape.rows + shape.cols) * kRank; ++i)
                factors[i] = f32_to_f16(random.normal());
            blocks.push_back(form.block(bytes.data()));
        }
        stack = {shape, kRank, blocks, room};
    }
    StackForm form;
    std::vector<float> room;
    std::vector<std::vector<std::byte>> memory;
    std::vector<ops::SignedBlock> blocks;
    ops::Stack stack;
};

void product(benchmark::State& state, Shape2 shape, std::int64_t tokens, int threads) {
    Machine m(best_isa(), threads);
    const Blocks blocks(shape);
    Guarded x(m.exec, Random(301).normals(tokens * shape.cols), tokens);
    Guarded out(m.exec.dtype(), tokens, shape.rows);
    for (auto _ : state) ops::stack_matmul(m.exec, x.view(), {&blocks.stack, out.view()});
    state.SetItemsProcessed(state.iterations() * shape.rows * shape.cols * kLevels);
}

void rebuild(benchmark::State& state, Shape2 shape, int threads) {
    Machine m(best_isa(), threads);
    const Blocks blocks(shape);
    std::vector<float> out(static_cast<std::size_t>(shape.rows * shape.cols));
    for (auto _ : state) ops::stack_rows(m.exec, blocks.stack, {0, shape.rows}, out);
    state.SetItemsProcessed(state.iterations() * shape.rows * shape.cols * kLevels);
}

const bool kRegistered = [] {
    for (const Shape2 shape : {Shape2{576, 576}, Shape2{1536, 576}, Shape2{576, 1536}}) {
        const std::string size = std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
        for (const int threads : {1, 2}) {
            const std::string on = "/" + size + "/threads:" + std::to_string(threads);
            for (const std::int64_t tokens : {1, 2, 3, 4, 8, 64, 512})
                benchmark::RegisterBenchmark(
                    ("stack" + on + "/tokens:" + std::to_string(tokens)).c_str(), product, shape,
                    tokens, threads);
            benchmark::RegisterBenchmark(("stack_rows" + on).c_str(), rebuild, shape, threads);
        }
    }
    return true;
}();

}  // namespace
