// SPDX-License-Identifier: Apache-2.0
// What it would cost to sort the channels of cached keys: right after the rotation, queries and
// keys of one token are gathered head by head in the order of their key-value head, in all layers.
// An iteration is a token; a layer's orders are [kv_heads, head_dim] indices.
#include <benchmark/benchmark.h>

#include <numeric>
#include <string>
#include <vector>

#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

struct Shape {
    const char* name;
    std::size_t layers, heads, kv_heads, dim;
};

void gather_heads(const float* x, const std::int32_t* order, std::size_t heads, std::size_t shared,
                  std::size_t dim, float* out) {
    for (std::size_t h = 0; h < heads; ++h) {
        const std::int32_t* from = order + h / shared * dim;
        for (std::size_t i = 0; i < dim; ++i)
            out[h * dim + i] = x[h * dim + static_cast<std::size_t>(from[i])];
    }
}

void gather(benchmark::State& state, const Shape& shape) {
    std::vector<std::int32_t> order(shape.layers * shape.kv_heads * shape.dim);
    for (std::size_t at = 0; at < order.size(); at += shape.dim) {
        std::iota(order.begin() + static_cast<std::ptrdiff_t>(at),
                  order.begin() + static_cast<std::ptrdiff_t>(at + shape.dim), 0);
        for (std::size_t i = shape.dim - 1; i > 0; --i)
            std::swap(order[at + i], order[at + philox(at, i).v[0] % (i + 1)]);
    }
    std::vector<float> q(shape.heads * shape.dim, 1), k(shape.kv_heads * shape.dim, 2);
    std::vector<float> q_out(q.size()), k_out(k.size());
    for (auto _ : state) {
        for (std::size_t layer = 0; layer < shape.layers; ++layer) {
            const std::int32_t* of_layer = order.data() + layer * shape.kv_heads * shape.dim;
            gather_heads(q.data(), of_layer, shape.heads, shape.heads / shape.kv_heads, shape.dim,
                         q_out.data());
            gather_heads(k.data(), of_layer, shape.kv_heads, 1, shape.dim, k_out.data());
            benchmark::DoNotOptimize(q_out.data());
            benchmark::DoNotOptimize(k_out.data());
            benchmark::ClobberMemory();
        }
    }
}

const bool kRegistered = [] {
    static constexpr Shape kShapes[] = {{"smollm2-135m", 30, 9, 3, 64}, {"32x128", 32, 32, 8, 128}};
    for (const Shape& shape : kShapes)
        benchmark::RegisterBenchmark(("gather/" + std::string(shape.name)).c_str(), gather, shape);
    return true;
}();

}  // namespace
