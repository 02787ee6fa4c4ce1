// SPDX-License-Identifier: Apache-2.0
// Feed-forward blocks of one token that drop activations: bytes_per_second counts the rows of up
// and down that are kept. Names end in the share that is kept, in per cent; matmul's decode/bf16
// has all weights. Blocks come as several copies that no cache holds together.
#include <benchmark/benchmark.h>

#include "ops/kept.h"
#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::size_t kFarBytes = std::size_t{256} << 20;  // beyond any last-level cache's share

void kept(benchmark::State& state, LayoutId layout, std::int64_t hidden, std::int64_t channels,
          int threads) {
    const std::int64_t share = state.range(0);
    Machine m(best_isa(), threads, std::size_t{64} << 20);
    const Shape2 shape{channels, hidden};
    const Matrix one = make_matrix(layout, shape, 300);
    const std::size_t copies = std::max<std::size_t>(kFarBytes / one.bytes.size(), 2);
    Buffer memory(copies * one.bytes.size(), Purpose::kWeights);
    std::vector<PackedView> views;
    for (std::size_t i = 0; i < copies; ++i) {
        std::byte* at = memory.data() + i * one.bytes.size();
        std::copy(one.bytes.begin(), one.bytes.end(), at);
        views.push_back(block_form(layout, shape).view(shape, at));
    }
    // Gates far from zero, whose activations are kept or not as thresholds say.
    Random random(301);
    std::vector<float> least;
    std::int64_t rows = 0;
    for (std::int64_t c = 0; c < channels; ++c) {
        const bool stays = 100 * random.unit() < static_cast<float>(share);
        least.push_back(stays ? 0.0F : 1e6F);
        rows += stays ? 1 : 0;
    }
    Guarded x(m.exec, random.normals(hidden), 1), thresholds(m.exec, least, 1);
    Guarded gate(m.exec, std::vector<float>(static_cast<std::size_t>(channels), 2.0F), 1);
    Guarded out(m.exec.dtype(), 1, hidden);
    std::size_t at = 0;
    for (auto _ : state) {
        const PackedView &up = views[at % copies], &down = views[(at + 1) % copies];
        ops::kept_ffn(m.exec, {ops::Gate::kSilu, x.view(), gate.view(), thresholds.view(), up, down,
                               out.view(), false});
        at += 2;
    }
    state.SetBytesProcessed(state.iterations() * 2 * rows *
                            static_cast<std::int64_t>(one.view.planes[0].row_bytes));
}

const bool kRegistered = [] {
    for (const LayoutId layout : {LayoutId::k_bf16, LayoutId::k_f16, LayoutId::k_f32}) {
        for (const int threads : {1, default_threads()}) {
            for (const auto& [hidden, channels] :
                 {std::pair<std::int64_t, std::int64_t>{2048, 8192}, {576, 1536}}) {
                const std::string name = "kept/" + std::string(layout_info(layout).name) + "/" +
                                         std::to_string(channels) + "x" + std::to_string(hidden) +
                                         "/threads:" + std::to_string(threads);
                auto* bench = benchmark::RegisterBenchmark(name.c_str(), kept, layout, hidden,
                                                           channels, threads);
                for (const std::int64_t share : {100, 70, 50, 30}) bench->Arg(share);
                bench->UseRealTime();
            }
        }
    }
    return true;
}();

}  // namespace
