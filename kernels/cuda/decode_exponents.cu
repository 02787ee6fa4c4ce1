// SPDX-License-Identifier: Apache-2.0
// Numbers of coded exponents (kernels/layout/exponent_code.h) to rows of bfloat16: a warp decodes a
// chunk, each lane one of its streams. Streams are read in step, so no lane has to find where its
// codes begin: where the layout of DFloat11's authors decodes twice, first to count, this one knows
// from the chunk's start alone. Rows are put together in shared memory, 64 columns of 16 rows at a
// time. Floor: some 1.4 bytes read and 2 written per number. Blocks of 4 warps; shared memory:
// 8.1 KiB.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

using Code = ExponentCode;
constexpr int kWarps = 4, kLanes = 32, kTile = 1024;  // numbers put together at once

// Where number `n` of a strip lies in the matrix.
__device__ __forceinline__ std::int64_t place_of(const ExponentChunks& chunks, std::int64_t strip,
                                                 std::int64_t n) {
    const std::int64_t group = ExponentChunks::kGroup * chunks.cols;
    const std::int64_t first = n / group * ExponentChunks::kGroup;  // row of the strip
    const std::int64_t height = chunks.height_of(strip, first), in_group = n % group;
    return (strip * chunks.strip_rows() + first + in_group % height) * chunks.cols +
           in_group / height;
}

__global__ void __launch_bounds__(kWarps* kLanes) decode_exponents_kernel(DecodeExponents p) {
    static_assert(Code::kStreams == kLanes);
    THIMBLE_SHARED(std::uint8_t, table, Code::kTable);
    THIMBLE_SHARED(std::uint16_t, tiles, kWarps * kTile);
    for (int i = threadIdx.x; i < Code::kTable; i += kWarps * kLanes) table[i] = p.table[i];
    __syncthreads();
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const std::int64_t chunk = p.first_chunk + std::int64_t{blockIdx.x} * kWarps + warp;
    if (chunk >= p.end_chunk) return;
    const std::int64_t parts = p.chunks.chunks_of_strip(), strip = chunk / parts;
    const std::int64_t first = p.chunks.start(strip, chunk % parts);
    const int count = static_cast<int>(p.chunks.start(strip, chunk % parts + 1) - first);
    // The words, no further than their end; past it are zeros, and what comes out is told.
    const std::uint32_t* const starts = p.starts + (chunk - p.first_chunk);
    const std::int64_t begin = starts[0] - p.starts[0], end = starts[1] - p.starts[0];
    const std::int64_t first_number = p.first_chunk / parts * p.chunks.strip_numbers();
    const std::uint8_t* const rest =
        p.rest + strip * p.chunks.strip_numbers() + first - first_number;
    bool sound = end > begin;
    const int escaped = sound ? p.words[begin] : 0;
    std::int64_t at = begin + 1 + (escaped + 1) / 2;
    sound = sound && at <= end;
    int escapes = 0;
    std::uint32_t window = 0;
    int bits = 0;
    const unsigned below = (1u << lane) - 1;
    for (int tile = 0; tile < count; tile += kTile) {
        const int size = count - tile < kTile ? count - tile : kTile;
        for (int n = 0; n < size; n += Code::kStep) {
            const bool few = bits < Code::kWordBits;
            const unsigned all_few = __ballot_sync(kAllLanes, few);
            if (few) {
                const std::int64_t word = at + __popc(all_few & below);
                const std::uint32_t bits_of = word < end ? p.words[word] : 0u;
                window |= bits_of << (Code::kWordBits - bits);
                bits += Code::kWordBits;
            }
            at += __popc(all_few);
            for (int half = 0; half < 2; ++half) {
                const unsigned entry = table[window >> (32 - Code::kLongest)];
                window <<= entry >> 4;
                bits -= static_cast<int>(entry >> 4);
                const int i = n + half * kLanes + lane;
                const bool escape = (entry & 15u) == Code::kEscape && i < size;
                const unsigned all_escape = __ballot_sync(kAllLanes, escape);
                unsigned exponent = p.exponents[entry & 15u];
                if (escape) {
                    const int e = escapes + __popc(all_escape & below);
                    const std::int64_t word = begin + 1 + e / 2;
                    exponent = e < escaped && word < end ? p.words[word] >> 8 * (e % 2) & 255u : 0u;
                }
                escapes += __popc(all_escape);
                if (i < size) {
                    const unsigned r = rest[tile + i];
                    tiles[warp * kTile + i] =
                        static_cast<std::uint16_t>((r & 0x80u) << 8 | exponent << 7 | (r & 0x7fu));
                }
            }
        }
        __syncwarp();
        // Lanes take columns one after the other of a row.
        constexpr int kRows = ExponentChunks::kGroup, kCols = kTile / kRows;
        for (int k = lane; k < kTile; k += kLanes) {
            const int i = k % kCols * kRows + k / kCols;
            if (i < size)
                p.out[place_of(p.chunks, strip, first + tile + i) - first_number] =
                    tiles[warp * kTile + i];
        }
        __syncwarp();
    }
    if (lane == 0 && (!sound || at != end || escapes != escaped)) *p.damaged = 1;
}

}  // namespace

bool supports_decode_exponents(const DecodeExponents& p) noexcept {
    return p.chunks.rows > 0 && p.chunks.cols > 0 && p.first_chunk >= 0 &&
           p.end_chunk <= p.chunks.chunks();
}

void decode_exponents(const DecodeExponents& p, Stream& stream) {
    launch("decode_exponents", decode_exponents_kernel,
           {blocks_for(p.end_chunk - p.first_chunk, kWarps), kWarps * kLanes}, stream, p);
}

}  // namespace thimble::cuda
