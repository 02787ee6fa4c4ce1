// SPDX-License-Identifier: Apache-2.0
// Scores of stored vectors by code: bytes_per_second counts codes, items_per_second vectors times
// queries. Codes are more than caches hold. Beside it, read_memory is the machine's read bandwidth.
#include <benchmark/benchmark.h>

#include <string>

#include "core/cpu.h"
#include "kernels/layout/rng.h"
#include "ops/scan.h"
#include "tensor/buffer.h"

using namespace thimble;

namespace {

constexpr std::int64_t kFarBytes = std::int64_t{256} << 20;

Buffer far_codes() {
    Buffer out(kFarBytes, Purpose::kOther);
    for (std::size_t i = 0; i < out.bytes() / 8; ++i) {
        const Philox4 r = philox(1, i);  // no code of these is a NaN
        out.as<std::uint32_t>()[2 * i] = r.v[0] & 0x3f3f3f3fu;
        out.as<std::uint32_t>()[2 * i + 1] = r.v[1] & 0x3f3f3f3fu;
    }
    return out;
}

void scan(benchmark::State& state, VectorCode code, std::int64_t dims, std::int64_t queries,
          bool hamming) {
    const Buffer codes = far_codes();
    Team team(default_threads());
    const std::int64_t bytes = vector_bytes(code, dims), stride = ops::padded_dims(dims);
    // Of many queries fewer vectors: scores are to stay small beside them.
    const std::int64_t rows = kFarBytes / bytes / (queries == 1 ? 1 : 16);
    Buffer of(static_cast<std::size_t>(queries * stride) * sizeof(float), Purpose::kOther);
    Buffer scores(static_cast<std::size_t>(queries * rows) * sizeof(float), Purpose::kOther);
    for (std::int64_t i = 0; i < queries * stride; ++i)
        of.as<float>()[i] = unit_float(philox(2, static_cast<std::uint64_t>(i)).v[0]) - 0.5f;
    for (auto _ : state) {
        if (hamming) {
            ops::scan_signs(team, best_isa(),
                            {codes.as<std::uint8_t>(), rows, dims, of.as<std::uint8_t>(), queries,
                             scores.as<float>(), rows});
        } else {
            ops::scan_codes(team, best_isa(),
                            {code, codes.as<std::uint8_t>(), rows, dims, of.as<float>(), queries,
                             stride, scores.as<float>(), rows});
        }
        benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(state.iterations() * rows * bytes);
    state.SetItemsProcessed(state.iterations() * rows * queries);
}

const bool kRegistered = [] {
    constexpr struct {
        const char* name;
        VectorCode code;
        bool hamming = false;
    } kCodes[] = {{"f32", VectorCode::kF32},    {"f16", VectorCode::kF16},
                  {"e4m3", VectorCode::kE4m3},  {"e5m2", VectorCode::kE5m2},
                  {"int8", VectorCode::kU8},    {"e2m1", VectorCode::kE2m1},
                  {"signs", VectorCode::kSign}, {"hamming", VectorCode::kSign, true}};
    for (const std::int64_t queries : {1, 64}) {
        for (const auto& code : kCodes) {
            for (const std::int64_t dims : {384, 768}) {
                const std::string name = std::string("scan/") + code.name + "/" +
                                         std::to_string(dims) + "/" + std::to_string(queries);
                benchmark::RegisterBenchmark(name.c_str(), scan, code.code, dims, queries,
                                             code.hamming)
                    ->UseRealTime();
            }
        }
    }
    return true;
}();

}  // namespace
