// SPDX-License-Identifier: Apache-2.0
// Matmul of interleaved layouts: a lane is a row, columns are taken in order, so an output's bits
// depend on nothing but its row and its token. With 8-bit input, codes are multiplied exactly and
// each 32 (or 16) columns are scaled once; with float input, weights are decoded and each product is
// added in turn.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/lanes.h"
#include "kernels/layout/interleaved.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

// 32 columns of 16 rows: w[k] = scale[k / (32 / kScales)] * (codes - 2^kOffsetBits) + minimum.
template <LayoutId id>
struct Part {
    u8x64 codes[8];
    f32x16 scale[Interleaved<id>::kScales];
    f32x16 minimum;
};

THIMBLE_INLINE void read_codes(const CodePlane<8>& plane, u8x64* codes) {
    for (int g = 0; g < 8; ++g) codes[g] = load_as<u8x64>(plane.codes[g]);
}
THIMBLE_INLINE void read_codes(const CodePlane<4>& plane, u8x64* codes) {
    for (int g = 0; g < 4; ++g) {
        // Shifting 16-bit lanes is what the instruction sets have; the mask drops what crosses.
        typedef std::uint16_t u16x32 __attribute__((vector_size(64)));
        const u8x64 both = load_as<u8x64>(plane.low[g]);
        codes[g] = both & 15;
        codes[g + 4] = __builtin_bit_cast(u8x64, __builtin_bit_cast(u16x32, both) >> 4) & 15;
    }
}
THIMBLE_INLINE void read_codes(const CodePlane<5>& plane, u8x64* codes) {
    read_codes(plane.low, codes);
    for (int g = 0; g < 8; ++g) codes[g] |= bit_to_16(plane.high[g]);
}
THIMBLE_INLINE void read_codes(const CodePlane<6>& plane, u8x64* codes) {
    typedef std::uint16_t u16x32 __attribute__((vector_size(64)));
    read_codes(plane.low, codes);
    for (int h = 0; h < 2; ++h) {
        const u16x32 high = __builtin_bit_cast(u16x32, load_as<u8x64>(plane.high[h]));
        codes[4 * h] |= __builtin_bit_cast(u8x64, high << 4) & 48;
        codes[4 * h + 1] |= __builtin_bit_cast(u8x64, high << 2) & 48;
        codes[4 * h + 2] |= __builtin_bit_cast(u8x64, high) & 48;
        codes[4 * h + 3] |= __builtin_bit_cast(u8x64, high >> 2) & 48;
    }
}

template <class Bytes, class From>
THIMBLE_INLINE f32x16 bytes_to_floats(const From* p) {
    return to_floats(__builtin_convertvector(load_as<Bytes>(p), i32x16));
}

template <LayoutId id>
THIMBLE_INLINE void read_part(const typename Interleaved<id>::Block& block, int sub,
                              Part<id>& part) {
    using I = Interleaved<id>;
    if constexpr (I::kElements == 32) {
        read_codes(block.codes, part.codes);
        part.scale[0] = load_half16(block.d);
        if constexpr (I::kMinimum) part.minimum = load_half16(block.m);
    } else {
        read_codes(block.sub[sub].codes, part.codes);
        const f32x16 d = load_half16(block.d);
        if constexpr (I::kMinimum) {
            part.scale[0] = d * bytes_to_floats<u8x16>(block.sub[sub].scale);
            part.minimum = -(load_half16(block.dmin) * bytes_to_floats<u8x16>(block.sub[sub].minimum));
        } else {
            for (int h = 0; h < I::kScales; ++h)
                part.scale[h] = d * bytes_to_floats<i8x16>(block.sub[sub].scale[h]);
        }
    }
}

// sums[r][t] of R groups and T tokens, 8-bit input.
template <LayoutId id, int R, int T>
THIMBLE_INLINE void run_i8(const MatmulGroups& p, const std::byte* weights, std::int64_t token,
                           f32x16 (*sums)[T]) {
    using I = Interleaved<id>;
    constexpr int kSubs = I::kElements / 32, kDots = 8 / I::kScales;
    const I8Block* x = p.i8 + token * p.i8_stride;
    const std::int64_t blocks = p.cols / I::kElements;
    for (std::int64_t b = 0; b < blocks; ++b) {
        for (int s = 0; s < kSubs; ++s, ++x) {
            for (int r = 0; r < R; ++r) {
                Part<id> part;
                read_part<id>(reinterpret_cast<const typename I::Block*>(
                                  weights + static_cast<std::size_t>(r) * p.group_bytes)[b],
                              s, part);
                for (int t = 0; t < T; ++t) {
                    const I8Block& q = x[t * p.i8_stride];
                    for (int h = 0; h < I::kScales; ++h) {
                        i32x16 dots = {};
                        if constexpr (I::kOffsetBits > 0) {
                            dots = (i32x16{} + (I::kScales == 2 ? q.negative_halves[h]
                                                                : q.negative_sum))
                                   << I::kOffsetBits;
                        }
                        for (int g = h * kDots; g < (h + 1) * kDots; ++g)
                            dots = dot4(dots, part.codes[g], q.codes + 4 * g);
                        sums[r][t] = fma(to_floats(dots), part.scale[h] * q.scale, sums[r][t]);
                    }
                    if constexpr (I::kMinimum)
                        sums[r][t] = fma(part.minimum, splat(q.sum), sums[r][t]);
                }
            }
        }
    }
}

// The same with float input.
template <LayoutId id, int R, int T>
THIMBLE_INLINE void run_f32(const MatmulGroups& p, const std::byte* weights, std::int64_t token,
                            f32x16 (*sums)[T]) {
    using I = Interleaved<id>;
    const float* x = p.x + token * p.x_stride;
    const auto multiply = [&](int r, std::int64_t k, f32x16 w) __attribute__((always_inline)) {
        for (int t = 0; t < T; ++t) sums[r][t] = fma(w, splat(x[t * p.x_stride + k]), sums[r][t]);
    };
    if constexpr (!I::kCodes) {
        for (std::int64_t k = 0; k < p.cols; ++k) {
            for (int r = 0; r < R; ++r) {
                const auto* rows = reinterpret_cast<const typename I::Block*>(
                                       weights + static_cast<std::size_t>(r) * p.group_bytes)[k]
                                       .rows;
                if constexpr (id == LayoutId::k_f32) {
                    multiply(r, k, load_as<f32x16>(rows));
                } else if constexpr (id == LayoutId::k_f16) {
                    multiply(r, k, load_half16(reinterpret_cast<const std::uint16_t*>(rows)));
                } else {
                    multiply(r, k, load_bf16x16(reinterpret_cast<const std::uint16_t*>(rows)));
                }
            }
        }
    } else {
        for (std::int64_t k = 0; k < p.cols; k += 32) {
            for (int r = 0; r < R; ++r) {
                Part<id> part;
                read_part<id>(reinterpret_cast<const typename I::Block*>(
                                  weights + static_cast<std::size_t>(r) * p.group_bytes)[k / I::kElements],
                              static_cast<int>(k % I::kElements / 32), part);
                for (int g = 0; g < 8; ++g) {
                    const u32x16 fours = __builtin_bit_cast(u32x16, part.codes[g]);
                    for (int c = 0; c < 4; ++c) {
                        const i32x16 code = __builtin_bit_cast(i32x16, (fours >> (8 * c)) & 255u);
                        constexpr int kOffset = I::kOffsetBits > 0 ? 1 << I::kOffsetBits : 0;
                        f32x16 w = part.scale[g * I::kScales / 8] * to_floats(code - kOffset);
                        if constexpr (I::kMinimum) w += part.minimum;
                        multiply(r, k + 4 * g + c, w);
                    }
                }
            }
        }
    }
}

template <LayoutId id, int R, int T>
THIMBLE_INLINE void run_tile(const MatmulGroups& p, std::int64_t group, std::int64_t token) {
    const std::byte* weights = p.weights + static_cast<std::size_t>(group) * p.group_bytes;
    f32x16 sums[R][T] = {};
    if constexpr (Interleaved<id>::kCodes) {
        if (p.i8 != nullptr) {
            run_i8<id, R, T>(p, weights, token, sums);
        } else {
            run_f32<id, R, T>(p, weights, token, sums);
        }
    } else {
        run_f32<id, R, T>(p, weights, token, sums);
    }
    for (int r = 0; r < R; ++r) {
        const std::int64_t row = (group + r) * kGroupRows;
        const std::int64_t count = p.rows - row < kGroupRows ? p.rows - row : kGroupRows;
        for (int t = 0; t < T; ++t) {
            float* out = p.out + (token + t) * p.out_stride + row;
            for (std::int64_t i = 0; i < count; ++i) {
                float y = sums[r][t][i];
                if (p.bias != nullptr) y += p.bias[row + i];
                out[i] = p.accumulate ? out[i] + y : y;
            }
        }
    }
}

// Tokens outermost: their input stays in the first cache while the groups, few enough for the
// second, pass by. One token takes four groups at once, as four streams fill the memory's pipe.
template <LayoutId id>
void run_layout(const MatmulGroups& p) {
    constexpr int kWide = 8, kTogether = Interleaved<id>::kCodes ? 1 : 2;
    const std::int64_t groups = (p.rows + kGroupRows - 1) / kGroupRows;
    std::int64_t t = 0;
    for (; t + kWide <= p.tokens; t += kWide) {
        std::int64_t g = 0;
        for (; g + kTogether <= groups; g += kTogether) run_tile<id, kTogether, kWide>(p, g, t);
        for (; g < groups; ++g) run_tile<id, 1, kWide>(p, g, t);
    }
    for (; t + 2 <= p.tokens; t += 2) {
        for (std::int64_t g = 0; g < groups; ++g) run_tile<id, 1, 2>(p, g, t);
    }
    for (; t < p.tokens; ++t) {
        std::int64_t g = 0;
        for (; g + 4 <= groups; g += 4) run_tile<id, 4, 1>(p, g, t);
        for (; g < groups; ++g) run_tile<id, 1, 1>(p, g, t);
    }
}

}  // namespace

void matmul_groups(const MatmulGroups& p) {
    switch (p.layout) {
#define THIMBLE_INTERLEAVED(id)  \
    case LayoutId::k_##id##_x16: \
        return run_layout<LayoutId::k_##id>(p);
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
        default:
            return;
    }
}

// A NaN or infinity makes the block's scale NaN, so that it shows in every output.
void quantise_i8(const float* x, std::int64_t cols, I8Block* out) {
    const f32x16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    for (std::int64_t b = 0; b < cols / 32; ++b, x += 32) {
        const f32x16 v[2] = {load_as<f32x16>(x), load_as<f32x16>(x + 16)};
        // Without their signs, floats are ordered as their bits are.
        const i32x16 v0bits = __builtin_bit_cast(i32x16, v[0]) & 0x7fffffff;
        const i32x16 v1bits = __builtin_bit_cast(i32x16, v[1]) & 0x7fffffff;
        const i32x16 larger = v0bits > v1bits ? v0bits : v1bits;
        std::int32_t top = 0;
        for (int i = 0; i < 16; ++i) top = larger[i] > top ? larger[i] : top;
        const float largest = bits_to_float(static_cast<std::uint32_t>(top));
        I8Block& block = out[b];
        block.scale = (largest - largest) + largest / 127.0f;
        const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;  // below, codes are 0
        std::int32_t sum = 0;
        for (int h = 0; h < 2; ++h) {
            const f32x16 shifted = v[h] * inverse + magic;
            const i32x16 code = __builtin_bit_cast(i32x16, shifted) - 0x4b400000;
            const i8x16 bytes = __builtin_convertvector(code, i8x16);
            __builtin_memcpy(block.codes + 16 * h, &bytes, sizeof bytes);
            std::int32_t half = 0;
            for (int i = 0; i < 16; ++i) half += code[i];
            block.negative_halves[h] = -half;
            sum += half;
        }
        block.negative_sum = -sum;
        block.sum = block.scale * static_cast<float>(sum);
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
