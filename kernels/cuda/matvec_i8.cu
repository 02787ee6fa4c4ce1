// SPDX-License-Identifier: Apache-2.0
// Matrix-vector products of 4- and 8-bit codes with 8-bit input: codes are multiplied exactly, four
// at a time, and each piece of a block is scaled once. A warp per row.
//   q8_0, q4_0   blocks stand at multiples of 2 bytes only: four lanes per block, loads of 16 bits,
//                neighbouring lanes read neighbouring bytes
//   q4_k         eight lanes per block, one 128-bit load of codes each and one of the scales
// Floor: the weights' bytes; the inputs, 9 to 10 bits an element, come from the caches. No shared
// memory. Blocks of 256 threads; occupancy is bound by registers at eight tokens.
#include "kernels/cuda/device/matvec.cuh"
#include "kernels/layout/all.h"

namespace thimble::cuda {
namespace {

// The 8-bit input of one token.
struct Input {
    const std::int8_t* codes;
    const float* scales;
    const float* sums;
};

__device__ __forceinline__ int load_two_halves(const void* p) {
    const auto* halves = static_cast<const std::uint16_t*>(p);
    return static_cast<int>(load_vector<std::uint16_t>(halves) |
                            static_cast<unsigned>(load_vector<std::uint16_t>(halves + 1)) << 16);
}

// What a lane takes of a row at once: kColumns / kElements of a block; the dot product of its codes
// with a token's, scaled.
template <LayoutId id>
struct Piece;

template <>
struct Piece<LayoutId::k_q8_0> {
    static constexpr int kColumns = 8;
    std::int64_t first;
    int codes[2];
    float d;
    __device__ __forceinline__ Piece(const std::byte* row, std::int64_t piece) : first(8 * piece) {
        const auto& block =
            reinterpret_cast<const Layout<LayoutId::k_q8_0>::Block*>(row)[piece / 4];
        d = f16_to_f32(block.d);
        for (int i = 0; i < 2; ++i) codes[i] = load_two_halves(block.codes + piece % 4 * 8 + 4 * i);
    }
    __device__ __forceinline__ float dot(const Input& x) const {
        const int2 q = load_vector<int2>(x.codes + first);
        const int sum = __dp4a(codes[1], q.y, __dp4a(codes[0], q.x, 0));
        return static_cast<float>(sum) * (d * x.scales[first / 32]);
    }
};

template <>
struct Piece<LayoutId::k_q4_0> {
    static constexpr int kColumns = 8;  // four and, 16 columns on, four more
    std::int64_t first;
    int low, high;
    float d;
    __device__ __forceinline__ Piece(const std::byte* row, std::int64_t piece)
        : first(piece / 4 * 32 + piece % 4 * 4) {
        const auto& block =
            reinterpret_cast<const Layout<LayoutId::k_q4_0>::Block*>(row)[piece / 4];
        d = f16_to_f32(block.d);
        const int both = load_two_halves(block.codes + piece % 4 * 4);
        low = less_eight(both & 0x0f0f0f0f);
        high = less_eight(both >> 4 & 0x0f0f0f0f);
    }
    // Four nibbles in bytes, each less 8: no byte carries into the next.
    __device__ __forceinline__ static int less_eight(int nibbles) {
        return static_cast<int>((static_cast<unsigned>(nibbles) + 0x78787878u) ^ 0x80808080u);
    }
    __device__ __forceinline__ float dot(const Input& x) const {
        const int sum = __dp4a(high, load_vector<int>(x.codes + first + 16),
                               __dp4a(low, load_vector<int>(x.codes + first), 0));
        return static_cast<float>(sum) * (d * x.scales[first / 32]);
    }
};

template <>
struct Piece<LayoutId::k_q4_k> {
    static constexpr int kColumns = 32;  // half of a group of 32 and the same half of the next
    std::int64_t first;
    int half;
    uint4 codes;
    float scale[2], minimum[2];
    __device__ __forceinline__ Piece(const std::byte* row, std::int64_t piece) {
        const auto& block =
            reinterpret_cast<const Layout<LayoutId::k_q4_k>::Block*>(row)[piece / 8];
        const int part = static_cast<int>(piece % 8);
        half = part % 2;
        first = piece / 8 * 256 + part / 2 * 64 + 16 * half;
        codes = load_vector<uint4>(block.codes + 16 * part);
        const uint4 head = load_vector<uint4>(&block);
        const float d = f16_to_f32(static_cast<std::uint16_t>(head.x));
        const float dmin = f16_to_f32(static_cast<std::uint16_t>(head.x >> 16));
        // The six bits of groups 2 p and 2 p + 1 (k_scales.h), p in 0..1 or in 2..3.
        const int shift = 16 * (part / 2 % 2);
        unsigned s, m;
        if (part < 4) {
            s = head.y >> shift & 0x3f3f, m = head.z >> shift & 0x3f3f;
        } else {
            s = (head.w >> shift & 0x0f0f) | (head.y >> shift & 0xc0c0) >> 2;
            m = (head.w >> shift >> 4 & 0x0f0f) | (head.z >> shift & 0xc0c0) >> 2;
        }
        for (int i = 0; i < 2; ++i) {
            scale[i] = d * static_cast<float>(s >> (8 * i) & 63u);
            minimum[i] = dmin * static_cast<float>(m >> (8 * i) & 63u);
        }
    }
    __device__ __forceinline__ float dot(const Input& x) const {
        float total = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint4 q = load_vector<uint4>(x.codes + first + 32 * i);
            const auto part = [&](unsigned from, unsigned with, int sum) {
                return __dp4a(static_cast<int>(from >> (4 * i) & 0x0f0f0f0fu),
                              static_cast<int>(with), sum);
            };
            const int sum =
                part(codes.w, q.w, part(codes.z, q.z, part(codes.y, q.y, part(codes.x, q.x, 0))));
            const std::int64_t group = first / 32 + i;
            total += static_cast<float>(sum) * (scale[i] * x.scales[group]);
            total -= minimum[i] * x.sums[2 * group + half];
        }
        return total;
    }
};

template <LayoutId id, int kTokens>
__global__ void __launch_bounds__(kMatvecThreads) matvec_i8_kernel(Matmul p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kMatvecRows + threadIdx.x / 32;
    if (row >= p.weight.rows) return;
    const std::byte* weights =
        p.weight.planes[0] + static_cast<std::size_t>(row) * p.weight.row_bytes[0];
    const std::int64_t cols = p.weight.cols, pieces = cols / Piece<id>::kColumns;
    float sums[kTokens] = {};
#pragma unroll 2
    for (std::int64_t i = threadIdx.x % 32; i < pieces; i += 32) {
        const Piece<id> piece(weights, i);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            if (t >= p.tokens) break;
            sums[t] += piece.dot(
                {p.codes + t * cols, p.scales + t * (cols / 32), p.sums + t * (cols / 16)});
        }
    }
    write_lane_sums(p, row, sums);
}

}  // namespace

bool supports_matvec_i8(const Matmul& p) noexcept {
    const Matrix& w = p.weight;
    if (p.codes == nullptr || p.scales == nullptr || p.sums == nullptr || w.cols <= 0 ||
        p.tokens > kMatvecTokens || !is_aligned(p.codes, 16))
        return false;
    if (w.layout == LayoutId::k_q4_k)
        return w.cols % 256 == 0 && is_aligned(w.planes[0], 16) && w.row_bytes[0] % 16 == 0;
    return (w.layout == LayoutId::k_q8_0 || w.layout == LayoutId::k_q4_0) && w.cols % 32 == 0 &&
           is_aligned(w.planes[0], 2) && w.row_bytes[0] % 2 == 0;
}

void matvec_i8(const Matmul& p, Stream& stream) {
    with_tokens(p.tokens, [&](auto tokens) {
        auto* kernel = matvec_i8_kernel<LayoutId::k_q8_0, tokens>;
        if (p.weight.layout == LayoutId::k_q4_0)
            kernel = matvec_i8_kernel<LayoutId::k_q4_0, tokens>;
        if (p.weight.layout == LayoutId::k_q4_k)
            kernel = matvec_i8_kernel<LayoutId::k_q4_k, tokens>;
        launch("matvec_i8", kernel, matvec_shape(p), stream, p);
    });
}

}  // namespace thimble::cuda
