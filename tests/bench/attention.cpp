// SPDX-License-Identifier: Apache-2.0
// Attention of one new token over a long cache (decode): bytes_per_second counts keys and values.
// Shape of a 135M llama: 9 heads share 3 K/V heads of 64. Several caches that no cache memory holds
// together are read in turn, as the layers of a model are.
#include <benchmark/benchmark.h>

#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr int kHeads = 9, kKvHeads = 3, kDim = 64;
constexpr std::size_t kFarBytes = std::size_t{256} << 20;

void attention(benchmark::State& state, LayoutId layout, std::int64_t slots) {
    Machine m(best_isa(), default_threads(), std::size_t{64} << 20);
    const std::size_t row = ops::packed_bytes(layout, {1, kDim}), token = row * kKvHeads;
    const std::size_t bytes = 2 * token * static_cast<std::size_t>(slots);
    const std::size_t copies = std::max<std::size_t>(kFarBytes / bytes, 1);
    Buffer memory(copies * bytes, Purpose::kKv);
    Guarded rows(m.exec, Random(310).normals(slots * kKvHeads * kDim), slots);
    for (std::size_t i = 0; i < 2 * copies; ++i) {
        ops::encode_kv(m.exec, rows.view(), kDim, layout, memory.data() + i * bytes / 2, token,
                       row);
    }
    Guarded q(m.exec, Random(311).normals(kHeads * kDim), 1), out(m.exec.dtype(), 1, kHeads * kDim);
    const std::int64_t position = slots - 1;
    std::size_t turn = 0;
    for (auto _ : state) {
        const std::byte* at = memory.data() + turn++ % copies * bytes;
        ops::AttnSegment segment;
        segment.k = {at, false, layout, token, row};
        segment.v = {at + bytes / 2, false, layout, token, row};
        segment.slots = slots;
        ops::Attention a;
        a.q = q.view(), a.out = out.view(), a.segments = {&segment, 1};
        a.q_positions = {&position, 1};
        a.heads = kHeads, a.kv_heads = kKvHeads, a.head_dim = kDim, a.scale = 0.125;
        ops::attention(m.exec, a);
    }
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
}

const bool kRegistered = [] {
    for (const LayoutId layout : {LayoutId::k_f32, LayoutId::k_f16, LayoutId::k_q8_0}) {
        for (const std::int64_t slots : {512, 4096, 16384}) {
            const std::string name =
                "attention/" + std::string(layout_info(layout).name) + "/" + std::to_string(slots);
            benchmark::RegisterBenchmark(name.c_str(), attention, layout, slots)->UseRealTime();
        }
    }
    return true;
}();

}  // namespace
