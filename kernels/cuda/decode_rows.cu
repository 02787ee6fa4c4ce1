// SPDX-License-Identifier: Apache-2.0
// Rows of any stored layout to floats or bf16: a thread decodes 32 columns, so a warp writes 4 KiB
// or half of it. Floor: a row's packed bytes read and 4 or 2 bytes written per weight. No shared
// memory; 256 threads, bound by the 32 floats that each holds in registers.
#include "kernels/cuda/device/halves.cuh"
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void write_bf16(const float (&values)[kPart], std::int64_t first,
                                           std::int64_t cols, std::uint16_t* out) {
    constexpr LayoutId kTo = LayoutId::k_bf16;
    const int count = part_columns(first, cols);
    out += first;
    if (count == kPart && reinterpret_cast<std::uintptr_t>(out) % sizeof(uint4) == 0) {
#pragma unroll
        for (int i = 0; i < kPart; i += 8) {
            store_vector(out + i, make_uint4(narrowed_pair<kTo>(values[i], values[i + 1]),
                                             narrowed_pair<kTo>(values[i + 2], values[i + 3]),
                                             narrowed_pair<kTo>(values[i + 4], values[i + 5]),
                                             narrowed_pair<kTo>(values[i + 6], values[i + 7])));
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
        if (i < count) out[i] = narrowed<kTo>(values[i]);
    }
}

template <LayoutId id>
__global__ void __launch_bounds__(kThreads) decode_rows_kernel(DecodeRows p) {
    const std::int64_t parts = (p.matrix.cols + kPart - 1) / kPart;
    const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (at >= p.count * parts) return;
    const std::int64_t r = at / parts, first = at % parts * kPart;
    float values[kPart];
    decode_part<id>(packed_row(p.matrix, p.first + r), first, p.matrix.cols, values);
    if (p.bf16 != nullptr)
        return write_bf16(values, first, p.matrix.cols, p.bf16 + r * p.out_stride);
    write_part(values, 1.0f, first, p.matrix.cols, p.out + r * p.out_stride);
}

}  // namespace

bool supports_decode_rows(const DecodeRows& p) noexcept {
    return is_stored(p.matrix.layout) && p.matrix.cols > 0;
}

void decode_rows(const DecodeRows& p, Stream& stream) {
    const std::int64_t parts = (p.matrix.cols + kPart - 1) / kPart;
    with_stored(p.matrix.layout, [&](auto id) {
        launch("decode_rows", decode_rows_kernel<decltype(id)::value>,
               {blocks_for(p.count * parts, kThreads), kThreads}, stream, p);
    });
}

}  // namespace thimble::cuda
