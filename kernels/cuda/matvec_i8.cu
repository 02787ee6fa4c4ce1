// SPDX-License-Identifier: Apache-2.0
// Matrix-vector products of 4- and 8-bit codes with 8-bit input: codes are multiplied exactly, four
// at a time, and each piece of a block is scaled once. A warp per row; every lane takes 16 bytes of
// codes with one 128-bit load, neighbouring lanes neighbouring ones.
//   affine   what a device holds for q8_0 and q4_0 (model/device_form.h): two lanes per group of
//            32 columns in 8 bits, one in 4 bits, and the group's scale from its plane
//   q4_k     eight lanes per block, and a 128-bit load of the scales
// Floor: the weights' bytes; the inputs, 9 to 10 bits an element, come from the caches. No shared
// memory. Blocks of 256 threads; occupancy is bound by registers at eight tokens.
#include "kernels/cuda/device/matvec.cuh"
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

// The 8-bit input of one token.
struct Input {
    const std::int8_t* codes;
    const float* scales;
    const float* sums;
};

// Which pieces a kernel is made of.
enum class Codes { kAffine8, kAffine4, kQ4K };

// What a lane takes of a row at once; the dot product of its codes with a token's, scaled.
template <Codes>
struct Piece;

__device__ __forceinline__ std::uint16_t half_scale(const PackedRow& row, std::int64_t group) {
    const void* scales = row.planes[Layout<LayoutId::k_affine>::kScales];
    return load_vector<std::uint16_t>(static_cast<const std::uint16_t*>(scales) + group);
}

template <>
struct Piece<Codes::kAffine8> {
    static constexpr int kColumns = 16;
    std::int64_t first;
    uint4 codes;
    float d;
    __device__ __forceinline__ Piece(const PackedRow& row, std::int64_t piece) : first(16 * piece) {
        codes = load_vector<uint4>(static_cast<const std::byte*>(row.planes[0]) + first);
        d = f16_to_f32(half_scale(row, piece / 2));
    }
    __device__ __forceinline__ float dot(const Input& x) const {
        const uint4 q = load_vector<uint4>(x.codes + first);
        const auto part = [&](unsigned code, unsigned with, int sum) {  // less 128 each
            return __dp4a(static_cast<int>(code ^ 0x80808080u), static_cast<int>(with), sum);
        };
        const int sum =
            part(codes.w, q.w, part(codes.z, q.z, part(codes.y, q.y, part(codes.x, q.x, 0))));
        return static_cast<float>(sum) * (d * x.scales[first / 32]);
    }
};

template <>
struct Piece<Codes::kAffine4> {
    static constexpr int kColumns = 32;
    std::int64_t first;
    int codes[8];
    float d;
    __device__ __forceinline__ Piece(const PackedRow& row, std::int64_t piece) : first(32 * piece) {
        const uint4 all =
            load_vector<uint4>(static_cast<const std::byte*>(row.planes[0]) + 16 * piece);
        const unsigned words[4] = {all.x, all.y, all.z, all.w};
        for (int i = 0; i < 4; ++i) {  // codes 0, 2, 4, 6 and 1, 3, 5, 7 of eight, put in order
            const unsigned even = words[i] & 0x0f0f0f0fu, odd = words[i] >> 4 & 0x0f0f0f0fu;
            codes[2 * i] = less_eight(__byte_perm(even, odd, 0x5140));
            codes[2 * i + 1] = less_eight(__byte_perm(even, odd, 0x7362));
        }
        d = f16_to_f32(half_scale(row, piece));
    }
    // Four nibbles in bytes, each less 8: no byte carries into the next.
    __device__ __forceinline__ static int less_eight(unsigned nibbles) {
        return static_cast<int>((nibbles + 0x78787878u) ^ 0x80808080u);
    }
    __device__ __forceinline__ float dot(const Input& x) const {
        int sum = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint4 q = load_vector<uint4>(x.codes + first + 16 * i);
            const unsigned with[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (int j = 0; j < 4; ++j)
                sum = __dp4a(codes[4 * i + j], static_cast<int>(with[j]), sum);
        }
        return static_cast<float>(sum) * (d * x.scales[first / 32]);
    }
};

template <>
struct Piece<Codes::kQ4K> {
    static constexpr int kColumns = 32;  // half of a group of 32 and the same half of the next
    std::int64_t first;
    int half;
    uint4 codes;
    float scale[2], minimum[2];
    __device__ __forceinline__ Piece(const PackedRow& row, std::int64_t piece) {
        const auto& block =
            static_cast<const Layout<LayoutId::k_q4_k>::Block*>(row.planes[0])[piece / 8];
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

template <Codes kind, int kTokens>
__global__ void __launch_bounds__(kMatvecThreads) matvec_i8_kernel(Matmul p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kMatvecRows + threadIdx.x / 32;
    if (row >= p.weight.rows) return;
    const PackedRow weights = packed_row(p.weight, row);
    const std::int64_t cols = p.weight.cols, pieces = cols / Piece<kind>::kColumns;
    float sums[kTokens] = {};
#pragma unroll 2
    for (std::int64_t i = threadIdx.x % 32; i < pieces; i += 32) {
        const Piece<kind> piece(weights, i);
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
    if (!is_aligned(w.planes[0], 16) || w.row_bytes[0] % 16 != 0) return false;
    if (w.layout == LayoutId::k_q4_k) return w.cols % 256 == 0;
    using Affine = Layout<LayoutId::k_affine>;
    return w.layout == LayoutId::k_affine && w.cols % 32 == 0 && w.params.group == 32 &&
           (w.params.bits == 8 || w.params.bits == 4) && w.params.scale == ScaleType::kF16 &&
           w.planes[Affine::kZeros] == nullptr && w.planes[Affine::kGroups] == nullptr;
}

void matvec_i8(const Matmul& p, Stream& stream) {
    with_tokens(p.tokens, [&](auto tokens) {
        auto* kernel = matvec_i8_kernel<Codes::kQ4K, tokens>;
        if (p.weight.layout == LayoutId::k_affine)
            kernel = p.weight.params.bits == 8 ? matvec_i8_kernel<Codes::kAffine8, tokens>
                                               : matvec_i8_kernel<Codes::kAffine4, tokens>;
        launch("matvec_i8", kernel, matvec_shape(p), stream, p);
    });
}

}  // namespace thimble::cuda
