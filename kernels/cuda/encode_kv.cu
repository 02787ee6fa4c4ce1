// SPDX-License-Identifier: Apache-2.0
// Keys or values to what the KV memory stores: a warp takes 32 columns of one head, a lane each.
// Floor: 4 bytes read and 1.06 to 4 written per element. No shared memory; 128 threads, occupancy
// is bound by nothing but the number of tokens.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/layout/q8_0.h"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 4;

// d = largest magnitude / 127, stored as f16; codes to nearest, ties to even.
__device__ __forceinline__ void encode_q8_0(float x, int lane, std::byte* out) {
    auto* block = reinterpret_cast<Layout<LayoutId::k_q8_0>::Block*>(out);
    const float d = warp_max(fabsf(x)) / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    if (lane == 0) block->d = f32_to_f16(d);
    block->codes[lane] = static_cast<std::int8_t>(rintf(x * inverse));
}

__global__ void __launch_bounds__(32 * kWarps) encode_kv_kernel(EncodeKv p) {
    const int parts = (p.head_dim + 31) / 32, lane = threadIdx.x % 32;
    const std::int64_t at = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    const std::int64_t t = at / parts / p.heads;
    if (t >= p.tokens) return;
    const int head = static_cast<int>(at / parts % p.heads);
    const int part = static_cast<int>(at % parts), i = 32 * part + lane;
    std::byte* out = p.out + static_cast<std::size_t>(t) * p.token_bytes +
                     static_cast<std::size_t>(head) * p.head_bytes;
    if (i >= p.head_dim) return;  // never of q8_0
    const float x = p.x[t * p.stride + head * p.head_dim + i];
    switch (p.layout) {
        case LayoutId::k_f16:
            reinterpret_cast<std::uint16_t*>(out)[i] = f32_to_f16(x);
            return;
        case LayoutId::k_bf16:
            reinterpret_cast<std::uint16_t*>(out)[i] = f32_to_bf16(x);
            return;
        case LayoutId::k_q8_0:
            return encode_q8_0(x, lane, out + part * sizeof(Layout<LayoutId::k_q8_0>::Block));
        default:
            reinterpret_cast<float*>(out)[i] = x;
    }
}

}  // namespace

bool supports_encode_kv(const EncodeKv& p) noexcept {
    return p.head_dim > 0 &&
           (p.layout == LayoutId::k_f32 || p.layout == LayoutId::k_f16 ||
            p.layout == LayoutId::k_bf16 || (p.layout == LayoutId::k_q8_0 && p.head_dim % 32 == 0));
}

void encode_kv(const EncodeKv& p, Stream& stream) {
    const std::int64_t warps = p.tokens * p.heads * ((p.head_dim + 31) / 32);
    launch("encode_kv", encode_kv_kernel, {blocks_for(warps, kWarps), 32 * kWarps}, stream, p);
}

}  // namespace thimble::cuda
