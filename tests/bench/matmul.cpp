// SPDX-License-Identifier: Apache-2.0
// Matrix products by layout, beside the machine's read bandwidth in the same run: bytes_per_second
// counts weights for one token (decode), items_per_second multiplications and additions for many
// (prefill). Weights come as several copies that no cache holds together, and are read in turn.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>

#include "cost/probe.h"
#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::size_t kFarBytes = std::size_t{256} << 20;  // beyond any last-level cache's share

// Copies of one matrix in its resident layout.
class Weights {
  public:
    Weights(Machine& m, const Matrix& one, Shape2 shape) {
        const LayoutId resident = *ops::resident_layout(one.view.layout, one.view.params);
        const std::size_t bytes = ops::packed_bytes(resident, shape, one.view.params);
        const std::size_t copies = std::max<std::size_t>(kFarBytes / bytes, 1);
        memory_ = Buffer(copies * bytes, Purpose::kWeights);
        for (std::size_t i = 0; i < copies; ++i)
            views_.push_back(ops::repack(m.exec, one.view, resident, memory_.data() + i * bytes));
    }
    const PackedView& next() { return views_[at_++ % views_.size()]; }

  private:
    Buffer memory_;
    std::vector<PackedView> views_;
    std::size_t at_ = 0;
};

// Half of each row's weights, the smaller ones, zero.
Matrix half_of_zeros(const std::string& spec, Shape2 shape) {
    std::vector<float> rows = Random(300).normals(shape.rows * shape.cols, 0.05F);
    std::vector<float> sizes(static_cast<std::size_t>(shape.cols));
    for (auto row = rows.begin(); row != rows.end(); row += shape.cols) {
        std::transform(row, row + shape.cols, sizes.begin(), [](float w) { return std::abs(w); });
        const auto middle = sizes.begin() + shape.cols / 2;
        std::nth_element(sizes.begin(), middle, sizes.end());
        for (auto w = row; w != row + shape.cols; ++w) *w = std::abs(*w) < *middle ? 0 : *w;
    }
    return encode_matrix(make_format(spec, "bench"), shape, rows);
}

void matmul(benchmark::State& state, const std::string& format, Shape2 shape, std::int64_t tokens) {
    Machine m(best_isa(), default_threads(), std::size_t{64} << 20);
    const bool sparse = format.starts_with("sparse");
    Weights weights(m,
                    sparse ? half_of_zeros(format, shape)
                           : make_matrix(make_format(format, "bench")->info().layout, shape, 300),
                    shape);
    Guarded x(m.exec, Random(301).normals(tokens * shape.cols), tokens);
    Guarded out(m.exec.dtype(), tokens, shape.rows);
    std::size_t bytes = 0;
    for (auto _ : state) {
        ops::MatmulInput input(m.exec, x.view());
        const PackedView& weight = weights.next();
        ops::matmul(m.exec, input, {weight, out.view(), std::nullopt, false});
        bytes = weight.bytes();
    }
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
    state.SetItemsProcessed(state.iterations() * 2 * tokens * shape.rows * shape.cols);
}

void read_memory(benchmark::State& state) {
    Team team(default_threads());
    Buffer memory(kFarBytes, Purpose::kWeights);
    std::memset(memory.data(), 1, memory.bytes());
    double rate = 0;
    for (auto _ : state) rate = cost::read_bandwidth(team, memory, 3);
    state.counters["bytes_per_second"] =
        benchmark::Counter(rate, benchmark::Counter::kDefaults, benchmark::Counter::kIs1024);
}
BENCHMARK(read_memory)->UseRealTime();

const bool kRegistered = [] {
    const Shape2 shapes[] = {{8192, 2048}, {2048, 8192}, {1536, 768}};
    std::vector<std::string> formats = weight_formats().names();
    for (const char* codes : {"sparse8", "sparse4"}) formats.emplace_back(codes);
    for (const std::int64_t tokens : {1, 4, 512}) {
        for (const std::string& format : formats) {
            for (const Shape2 shape : shapes) {
                const char* what = tokens == 1 ? "decode/" : tokens == 4 ? "decode4/" : "prefill/";
                const std::string name = what + format + "/" + std::to_string(shape.rows) + "x" +
                                         std::to_string(shape.cols);
                benchmark::RegisterBenchmark(name.c_str(), matmul, format, shape, tokens)
                    ->UseRealTime();
            }
        }
    }
    return true;
}();

}  // namespace
