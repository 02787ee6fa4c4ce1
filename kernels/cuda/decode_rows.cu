// SPDX-License-Identifier: Apache-2.0
// Rows of any stored layout to floats: a thread decodes 32 columns, so a warp writes 4 KiB. Floor:
// a row's packed bytes read and 4 bytes written per weight. No shared memory; 256 threads, bound by
// the 32 floats that each holds in registers.
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

template <LayoutId id>
__global__ void __launch_bounds__(kThreads) decode_rows_kernel(DecodeRows p) {
    const std::int64_t parts = (p.matrix.cols + kPart - 1) / kPart;
    const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (at >= p.count * parts) return;
    const std::int64_t r = at / parts, first = at % parts * kPart;
    float values[kPart];
    decode_part<id>(packed_row(p.matrix, p.first + r), first, p.matrix.cols, values);
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
