// SPDX-License-Identifier: Apache-2.0
// Matmul of interleaved layouts: a lane is a row, columns are taken in order, so an output's bits
// depend on nothing but its row and its token. With 8-bit input, codes are multiplied exactly and
// each 32 (or 16) columns are scaled once; with float input, weights are decoded and each product
// is added in turn.
#pragma once

#include "kernels/cpu/codes.h"
#include "kernels/cpu/groups_problem.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

// 32 columns of kLanes rows: w[k] = scale[k / (32 / kScales)] * (codes - kOffset) + minimum.
template <LayoutId id>
struct Part {
    vb codes[8];
    vf scale[Interleaved<id>::kScales];
    vf minimum[Interleaved<id>::kScales];
};

template <LayoutId id>
THIMBLE_INLINE void read_part(const LayoutParams& params,
                              const typename Interleaved<id>::Block& block, int sub, int row,
                              Part<id>& part) {
    using I = Interleaved<id>;
    if constexpr (requires { block.zero; }) {
        read_codes(block.codes[sub], row, part.codes);
        part.scale[0] =
            params.scale == ScaleType::kBF16 ? load_bf16(block.d + row) : load_f16(block.d + row);
        const vf zero = load_u8(block.zero + row) * I::zero_unit(params);
        part.minimum[0] = part.scale[0] * (static_cast<float>(I::kOffset) - zero);
    } else if constexpr (requires { I::bias(params); }) {
        read_codes(block.codes[sub], row, part.codes);
        const vf d = load_f16(block.d + row);
        part.scale[0] = d + d;
        part.minimum[0] = d * static_cast<float>(I::bias(params));
    } else if constexpr (requires { block.special; }) {
        read_special<typename I::Values>(block.codes, block.special + row, row, part.codes);
        part.scale[0] = load_f16(block.d + row);
    } else if constexpr (requires { block.table_codes; }) {
        read_codes(block.table_codes[sub], row, part.codes);
        part.scale[0] = load(block.d + row);
    } else if constexpr (requires { block.book; }) {
        read_codes(block.book_codes[sub], row, part.codes);
        look_up(block.book, part.codes);
        if constexpr (kSignedBytes) {
            for (vb& codes : part.codes) codes ^= 128;
        }
        part.scale[0] = load_f16(block.d + row) * I::kUnit;
    } else if constexpr (requires { block.e4m3; }) {
        read_codes(block.codes, row, part.codes);
        const float unit = 256 * params.values[0];
        for (int h = 0; h < 2; ++h) part.scale[h] = load_e4m3_256th(block.e4m3[h] + row) * unit;
    } else if constexpr (I::kElements == 32) {
        read_codes(block.codes, row, part.codes);
        part.scale[0] = load_scales(block.d + row);
        if constexpr (I::kMinimum) part.minimum[0] = load_f16(block.m + row);
    } else {
        const auto& own = block.sub[sub];
        read_codes(own.codes, row, part.codes);
        const vf d = load_f16(block.d + row);
        if constexpr (I::kMinimum && I::kScales == 1) {
            part.scale[0] = d * load_u8(own.scale + row);
            part.minimum[0] = -(load_f16(block.dmin + row) * load_u8(own.minimum + row));
        } else if constexpr (I::kMinimum) {
            const vf dmin = load_f16(block.dmin + row);
            for (int h = 0; h < I::kScales; ++h) {
                part.scale[h] = d * load_nibbles(own.scale_minimum[h] + row, 0);
                part.minimum[h] = -(dmin * load_nibbles(own.scale_minimum[h] + row, 4));
            }
        } else if constexpr (I::kSubScales) {
            for (int h = 0; h < I::kScales; ++h) part.scale[h] = d * load_i8(own.scale[h] + row);
        } else {
            part.scale[0] = d;
        }
    }
}

// A tile: R vectors of kLanes rows by T tokens. Vector r starts at row r * kLanes of `weights`.
template <LayoutId id>
THIMBLE_INLINE const typename Interleaved<id>::Block* blocks_of(const MatmulGroups& p,
                                                                const std::byte* weights, int r) {
    const std::size_t group = static_cast<std::size_t>(r * kLanes / kGroupRows);
    return reinterpret_cast<const typename Interleaved<id>::Block*>(weights +
                                                                    group * p.group_bytes);
}

// dots[r][t] += codes[r] * columns of T tokens, n vectors of four columns. Where the instructions
// add to a sum in place, all R * T sums grow side by side: one alone would wait for itself.
template <int bits, int n, int R, int T>
THIMBLE_INLINE void dot_tile(vi (*dots)[T], const vb (*codes)[8], int first, const I8Block* x,
                             std::int64_t stride) {
    if constexpr (kLanes == 16) {
        for (int g = first; g < first + n; ++g) {
            for (int t = 0; t < T; ++t) {
                for (int r = 0; r < R; ++r)
                    dots[r][t] =
                        dot<bits, 1>(dots[r][t], codes[r] + g, x[t * stride].codes + 4 * g);
            }
        }
    } else {
        for (int r = 0; r < R; ++r) {
            for (int t = 0; t < T; ++t)
                dots[r][t] =
                    dot<bits, n>(dots[r][t], codes[r] + first, x[t * stride].codes + 4 * first);
        }
    }
}

// 8-bit input.
template <LayoutId id, int R, int T>
THIMBLE_INLINE void run_i8(const MatmulGroups& p, const std::byte* weights, int row,
                           std::int64_t token, vf (*sums)[T]) {
    using I = Interleaved<id>;
    constexpr int kSubs = I::kElements / 32, kDots = 8 / I::kScales;
    constexpr int kAdded = kTableValues<id> ? 128 : I::kOffset;
    constexpr int kOffset = kSignedBytes && I::kBits == 8 ? 0 : kAdded;
    [[maybe_unused]] ByteTable table;
    if constexpr (kTableValues<id>) table = make_byte_table(p.params.values);
    const I8Block* x = p.i8 + token * p.i8_stride;
    const std::int64_t blocks = p.cols / I::kElements;
    for (std::int64_t b = 0; b < blocks; ++b) {
        for (int s = 0; s < kSubs; ++s, ++x) {
            vb codes[R][8], low[R][8];
            vf scale[R][I::kScales];
            [[maybe_unused]] vf minimum[R][I::kScales];
            for (int r = 0; r < R; ++r) {
                Part<id> part;
                read_part<id>(p.params, blocks_of<id>(p, weights, r)[b], s,
                              row + r * kLanes % kGroupRows, part);
                if constexpr (kTableValues<id>) {
                    for (int g = 0; g < 8; ++g) low[r][g] = part.codes[g];
                    look_up(table.low, low[r]);
                    look_up(table.high, part.codes);
                    part.scale[0] *= table.unit;
                }
                for (int g = 0; g < 8; ++g) codes[r][g] = part.codes[g];
                for (int h = 0; h < I::kScales; ++h) {
                    scale[r][h] = part.scale[h];
                    if constexpr (I::kMinimum) minimum[r][h] = part.minimum[h];
                }
            }
            for (int h = 0; h < I::kScales; ++h) {
                vi dots[R][T], low_dots[R][T];
                for (int t = 0; t < T; ++t) {
                    const I8Block& q = x[t * p.i8_stride];
                    const vi start = broadcast(
                        kOffset * (I::kScales == 2 ? q.negative_halves[h] : q.negative_sum));
                    for (int r = 0; r < R; ++r) dots[r][t] = start;
                }
                dot_tile<I::kBits, kDots, R>(dots, codes, h * kDots, x, p.i8_stride);
                if constexpr (kTableValues<id>) {
                    for (int t = 0; t < T; ++t) {
                        const vi start =
                            broadcast(kSignedBytes ? 0 : 128 * x[t * p.i8_stride].negative_sum);
                        for (int r = 0; r < R; ++r) low_dots[r][t] = start;
                    }
                    dot_tile<8, 8, R>(low_dots, low, 0, x, p.i8_stride);
                }
                for (int t = 0; t < T; ++t) {
                    const I8Block& q = x[t * p.i8_stride];
                    const vf unit = broadcast(q.scale);
                    for (int r = 0; r < R; ++r) {
                        vi dot = dots[r][t];
                        if constexpr (kTableValues<id>) dot = (dot << 8) + low_dots[r][t];
                        sums[r][t] = fma(to_floats(dot), scale[r][h] * unit, sums[r][t]);
                        if constexpr (I::kMinimum) {
                            const float sum = I::kScales == 2 ? q.half_sums[h] : q.sum;
                            sums[r][t] = fma(minimum[r][h], broadcast(sum), sums[r][t]);
                        }
                    }
                }
            }
        }
    }
}

// Float weights of column k.
THIMBLE_INLINE vf read_floats(const Interleaved<LayoutId::k_f32_x16>::Block& block, int row) {
    return load(reinterpret_cast<const float*>(block.rows) + row);
}
THIMBLE_INLINE vf read_floats(const Interleaved<LayoutId::k_f16_x16>::Block& block, int row) {
    return load_f16(reinterpret_cast<const std::uint16_t*>(block.rows) + row);
}
THIMBLE_INLINE vf read_floats(const Interleaved<LayoutId::k_bf16_x16>::Block& block, int row) {
    return load_bf16(reinterpret_cast<const std::uint16_t*>(block.rows) + row);
}

// Float input.
template <LayoutId id, int R, int T>
THIMBLE_INLINE void run_f32(const MatmulGroups& p, const std::byte* weights, int row,
                            std::int64_t token, vf (*sums)[T]) {
    using I = Interleaved<id>;
    const float* x = p.x + token * p.x_stride;
    if constexpr (!I::kCodes) {
        for (std::int64_t k = 0; k < p.cols; ++k) {
            for (int r = 0; r < R; ++r) {
                const vf w =
                    read_floats(blocks_of<id>(p, weights, r)[k], row + r * kLanes % kGroupRows);
                for (int t = 0; t < T; ++t)
                    sums[r][t] = fma(w, broadcast(x[t * p.x_stride + k]), sums[r][t]);
            }
        }
    } else if constexpr (requires(typename I::Block block) { block.columns_of_rows; }) {
        for (std::int64_t k = 0; k < p.cols; k += I::kElements) {
            vf scale[R];
            for (int r = 0; r < R; ++r) {
                const auto& block = blocks_of<id>(p, weights, r)[k / I::kElements];
                scale[r] = load_scales(block.d + row + r * kLanes % kGroupRows) *
                           (sizeof(block.d[0]) == 1 ? 512.0f : 256.0f);
            }
            for (int c = 0; c < I::kElements; ++c) {
                for (int r = 0; r < R; ++r) {
                    const auto& block = blocks_of<id>(p, weights, r)[k / I::kElements];
                    const vf w = scale[r] * load_e4m3_256th(block.columns_of_rows[c] + row +
                                                            r * kLanes % kGroupRows);
                    for (int t = 0; t < T; ++t)
                        sums[r][t] = fma(w, broadcast(x[t * p.x_stride + k + c]), sums[r][t]);
                }
            }
        }
    } else {
        constexpr int kOffset = kSignedBytes && I::kBits == 8 ? 0 : I::kOffset;
        const FloatTable table = load_table(p.params.values);
        for (std::int64_t k = 0; k < p.cols; k += 32) {
            for (int r = 0; r < R; ++r) {
                Part<id> part;
                read_part<id>(p.params, blocks_of<id>(p, weights, r)[k / I::kElements],
                              static_cast<int>(k % I::kElements / 32),
                              row + r * kLanes % kGroupRows, part);
                for (int g = 0; g < 8; ++g) {
                    for (int c = 0; c < 4; ++c) {
                        // Column c's byte of every row, moved to the top and, widened, back.
                        const vu top = reinterpret_cast<vu>(part.codes[g]) << (24 - 8 * c);
                        const vi code = kSignedBytes && I::kBits == 8
                                            ? reinterpret_cast<vi>(top) >> 24
                                            : reinterpret_cast<vi>(top >> 24) - kOffset;
                        vf w = part.scale[g * I::kScales / 8];
                        if constexpr (kTableValues<id>)
                            w *= look_up(table, code);
                        else
                            w *= to_floats(code);
                        if constexpr (I::kMinimum) w += part.minimum[g * I::kScales / 8];
                        const float* column = x + k + 4 * g + c;
                        for (int t = 0; t < T; ++t)
                            sums[r][t] = fma(w, broadcast(column[t * p.x_stride]), sums[r][t]);
                    }
                }
            }
        }
    }
}

// Whether 8-bit input can be multiplied with the codes.
template <LayoutId id>
inline constexpr bool kTakesI8 = Interleaved<id>::kCodes && !kFloatValues<id>;

// Rows [first_row, first_row + R * kLanes) and T tokens; first_row a multiple of kLanes.
template <LayoutId id, bool i8, int R, int T>
THIMBLE_INLINE void run_tile(const MatmulGroups& p, std::int64_t first_row, std::int64_t token) {
    const std::byte* weights =
        p.weights + static_cast<std::size_t>(first_row / kGroupRows) * p.group_bytes;
    const int row = static_cast<int>(first_row % kGroupRows);
    vf sums[R][T] = {};
    if constexpr (i8)
        run_i8<id, R, T>(p, weights, row, token, sums);
    else
        run_f32<id, R, T>(p, weights, row, token, sums);
    for (int r = 0; r < R; ++r) {
        const std::int64_t at = first_row + r * kLanes;
        const std::int64_t count = p.rows - at < kLanes ? p.rows - at : kLanes;
        for (int t = 0; t < T; ++t) {
            float* out = p.out + (token + t) * p.out_stride + at;
            for (std::int64_t i = 0; i < count; ++i) {
                float y = sums[r][t][i];
                if (p.bias != nullptr) y += p.bias[at + i];
                out[i] = p.accumulate ? out[i] + y : y;
            }
        }
    }
}

// Columns of tiles: R vectors at a time, then what is left one by one.
template <LayoutId id, bool i8, int R, int T>
THIMBLE_INLINE void run_rows(const MatmulGroups& p, std::int64_t token) {
    std::int64_t row = 0;
    for (; row + R * kLanes <= p.rows; row += R * kLanes) run_tile<id, i8, R, T>(p, row, token);
    for (; row < p.rows; row += kLanes) run_tile<id, i8, 1, T>(p, row, token);
}

// Whether registers hold the sums of two vectors by eight tokens, and what each adds.
template <LayoutId id, bool i8>
constexpr bool two_vectors() {
    if constexpr (i8 && kLanes == 16)
        return Interleaved<id>::kScales == 1 && !kTableValues<id>;
    else
        return false;
}
template <LayoutId id, bool i8>
inline constexpr bool kTwoVectors = two_vectors<id, i8>();

// Tokens outermost: their input stays in the first cache while the groups, few enough for the
// second, pass by. One token takes four groups at once, as four streams fill the memory's pipe;
// but not where codes are widened to floats, which takes longer than the memory does.
template <LayoutId id, bool i8>
void run_tokens(const MatmulGroups& p) {
    // What the registers hold: sums and codes, or sums and a column of weights.
    constexpr bool kCodes = Interleaved<id>::kCodes, kWidened = kTakesI8<id> && !i8;
    constexpr int kTokens = kLanes == 8 ? 4 : 8;
    constexpr int kVectors = kCodes && !kTwoVectors<id, i8> ? 1 : 2;
    constexpr int kStreams = (kWidened ? 1 : 4) * kGroupRows / kLanes;
    std::int64_t t = 0;
    for (; t + kTokens <= p.tokens; t += kTokens) run_rows<id, i8, kVectors, kTokens>(p, t);
    if constexpr (!kWidened) {
        for (; t + 2 <= p.tokens; t += 2) run_rows<id, i8, 1, 2>(p, t);
    }
    for (; t < p.tokens; ++t) run_rows<id, i8, kStreams, 1>(p, t);
}

template <LayoutId id>
void run_layout(const MatmulGroups& p) {
    if constexpr (kTakesI8<id>) {
        if (p.i8 != nullptr) return run_tokens<id, true>(p);
    }
    run_tokens<id, false>(p);
}

// The layouts are compiled in shards, as many as there are files of them.
constexpr int kShards = 4;
constexpr int shard_of(LayoutId layout) { return static_cast<int>(layout) % kShards; }

template <int shard>
void run_shard(const MatmulGroups& p) {
    switch (p.layout) {
#define THIMBLE_INTERLEAVED(stored, twin)                          \
    case LayoutId::k_##twin##_x16:                                 \
        if constexpr (!kWoven<LayoutId::k_##twin##_x16> &&         \
                      shard_of(LayoutId::k_##twin##_x16) == shard) \
            run_layout<LayoutId::k_##twin##_x16>(p);               \
        return;
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
        default:
            return;
    }
}

}  // namespace

void matmul_groups_0(const MatmulGroups& p);
void matmul_groups_1(const MatmulGroups& p);
void matmul_groups_2(const MatmulGroups& p);
void matmul_groups_3(const MatmulGroups& p);
// Of the layouts that kWoven is true of.
void matmul_sparse(const MatmulGroups& p);

}  // namespace thimble::cpu::THIMBLE_ISA
