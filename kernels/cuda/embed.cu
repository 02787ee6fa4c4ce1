// SPDX-License-Identifier: Apache-2.0
// Rows of a table in any stored layout, chosen by tokens: a thread decodes 32 columns of one token.
// Floor: a row's packed bytes read and 4 bytes written per column. No shared memory; 64 threads, so
// that one token (decode) still meets several processors: the launch itself is the cost.
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 64;

template <LayoutId id>
__global__ void __launch_bounds__(kThreads) embed_kernel(Embed p) {
    const std::int64_t cols = p.table.cols, parts = (cols + kPart - 1) / kPart;
    const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (at >= p.count * parts) return;
    const std::int64_t t = at / parts, first = at % parts * kPart;
    float values[kPart];
    decode_part<id>(packed_row(p.table, p.tokens[t]), first, cols, values);
    write_part(values, p.factor, first, cols, p.out + t * p.out_stride);
}

}  // namespace

bool supports_embed(const Embed& p) noexcept {
    return is_stored(p.table.layout) && p.table.cols > 0;
}

void embed(const Embed& p, Stream& stream) {
    const std::int64_t parts = (p.table.cols + kPart - 1) / kPart;
    with_stored(p.table.layout, [&](auto id) {
        launch("embed", embed_kernel<decltype(id)::value>,
               {blocks_for(p.count * parts, kThreads), kThreads}, stream, p);
    });
}

}  // namespace thimble::cuda
