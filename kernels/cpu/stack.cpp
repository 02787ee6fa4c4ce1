// SPDX-License-Identifier: Apache-2.0
// Products with matrices that are sums of signed blocks of low rank, and their rows.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr int kRank = 16;  // k side by side; the last ones of a rank that is no multiple are zeros
constexpr int kVectors = kRank / kLanes;
constexpr int kColumns = 4;   // of a lookup
constexpr int kLookups = 32;  // whose tables fill 32 KiB, as the first cache does
constexpr int kChains = 4;    // of additions that do not wait for one another

struct Lanes {
    vf v[kVectors];
};

THIMBLE_INLINE Lanes zeros() { return {}; }
THIMBLE_INLINE Lanes load_lanes(const float* p) {
    Lanes out;
    for (int i = 0; i < kVectors; ++i) out.v[i] = load(p + i * kLanes);
    return out;
}
THIMBLE_INLINE void store_lanes(float* p, const Lanes& a) {
    for (int i = 0; i < kVectors; ++i) store(p + i * kLanes, a.v[i]);
}
THIMBLE_INLINE Lanes add_lanes(const Lanes& a, const Lanes& b) {
    Lanes out;
    for (int i = 0; i < kVectors; ++i) out.v[i] = a.v[i] + b.v[i];
    return out;
}

// Elements [k, k + kRank) of a row of factors, with zeros past `rank`.
THIMBLE_INLINE Lanes load_factors(const std::uint16_t* row, std::int64_t k, std::int64_t rank) {
    Lanes out;
    if (k + kRank <= rank) {
        for (int i = 0; i < kVectors; ++i) out.v[i] = load_f16(row + k + i * kLanes);
        return out;
    }
    std::uint16_t padded[kRank] = {};
    for (std::int64_t i = 0; k + i < rank; ++i) padded[i] = row[k + i];
    for (int i = 0; i < kVectors; ++i) out.v[i] = load_f16(padded + i * kLanes);
    return out;
}

// The 16 sums of four columns' terms, bit j of the index set: minus the j-th.
THIMBLE_INLINE void tabulate(const SignedBlock& block, const StackProduct& p, std::int64_t k,
                             const float* x, std::int64_t first, float* table) {
    Lanes term[kColumns];
    for (int j = 0; j < kColumns; ++j) {
        const std::int64_t c = first + j;
        term[j] = c < p.cols ? load_factors(block.b + c * p.rank, k, p.rank) : zeros();
        const vf factor = broadcast(c < p.cols ? x[c] : 0);
        for (int i = 0; i < kVectors; ++i) term[j].v[i] *= factor;
    }
    for (int i = 0; i < kVectors; ++i) {
        const vf plus = term[0].v[i] + term[1].v[i], minus = term[0].v[i] - term[1].v[i];
        const vf low[4] = {plus, -minus, minus, -plus};
        const vf plus2 = term[2].v[i] + term[3].v[i], minus2 = term[2].v[i] - term[3].v[i];
        const vf high[4] = {plus2, -minus2, minus2, -plus2};
        for (int s = 0; s < 16; ++s)
            store(table + s * kRank + i * kLanes, low[s & 3] + high[s >> 2]);
    }
}

// Two lookups, by the signs of eight columns.
THIMBLE_INLINE void look_up(std::uint64_t byte, const float* table, Lanes& low, Lanes& high) {
    constexpr int kTable = 16 * kRank;
    low = add_lanes(low, load_lanes(table + (byte & 15) * kRank));
    high = add_lanes(high, load_lanes(table + kTable + (byte >> 4 & 15) * kRank));
}

// Adds what `bytes` bytes of a row's signs point to.
THIMBLE_INLINE Lanes sum_row(const std::byte* signs, std::int64_t bytes, const float* table,
                             const Lanes& before) {
    constexpr int kTables = 2 * 16 * kRank;  // of a byte
    Lanes chain[kChains] = {before, zeros(), zeros(), zeros()};
    std::int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        std::uint64_t word;
        __builtin_memcpy(&word, signs + i, sizeof word);
        const float* at = table + i * kTables;
        for (int j = 0; j < 8; ++j) {
            look_up(word >> (8 * j), at + j * kTables, chain[2 * j % kChains],
                    chain[(2 * j + 1) % kChains]);
        }
    }
    for (; i < bytes; ++i)
        look_up(static_cast<std::uint64_t>(signs[i]), table + i * kTables, chain[0], chain[1]);
    return add_lanes(add_lanes(chain[0], chain[1]), add_lanes(chain[2], chain[3]));
}

// Adds to sums[row] what one block gives for 16 k.
THIMBLE_INLINE void add_block(const SignedBlock& block, const StackProduct& p, std::int64_t k,
                              const float* x, float (*inner)[kRank], float (*sums)[kRank]) {
    alignas(64) float table[kLookups * 16 * kRank];
    const std::int64_t row_bytes = sign_row_bytes(p.cols);
    constexpr std::int64_t kBytes = kLookups * kColumns / 8;
    for (std::int64_t byte = 0; byte < row_bytes; byte += kBytes) {
        const std::int64_t bytes = row_bytes - byte < kBytes ? row_bytes - byte : kBytes;
        for (std::int64_t g = 0; g < 2 * bytes; ++g)
            tabulate(block, p, k, x, 8 * byte + g * kColumns, table + g * 16 * kRank);
        const std::byte* signs = block.signs + p.first * row_bytes + byte;
        for (std::int64_t r = 0; r < p.rows; ++r, signs += row_bytes) {
            const Lanes before = byte > 0 ? load_lanes(inner[r]) : zeros();
            store_lanes(inner[r], sum_row(signs, bytes, table, before));
        }
    }
    const vf scale = broadcast(block.scale);
    for (std::int64_t r = 0; r < p.rows; ++r) {
        const Lanes a = load_factors(block.a + (p.first + r) * p.rank, k, p.rank);
        for (int i = 0; i < kVectors; ++i) {
            float* to = sums[r] + i * kLanes;
            store(to, fma(a.v[i] * scale, load(inner[r] + i * kLanes), load(to)));
        }
    }
}

constexpr int kTile = 64;  // columns whose magnitudes are made at once

// The sign bits of columns [c, c + kLanes), c a multiple of 8 at least and of kLanes.
THIMBLE_INLINE vi sign_bits(const std::byte* signs, std::int64_t c, std::int64_t bytes) {
    std::uint32_t bits = 0;
    if constexpr (kLanes >= 8) {
        for (int i = 0; i < kLanes / 8; ++i)
            if (c / 8 + i < bytes) bits |= static_cast<std::uint32_t>(signs[c / 8 + i]) << (8 * i);
    } else {
        bits = static_cast<std::uint32_t>(signs[c / 8]) >> (c % 8);
    }
    vi lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = 31 - i;
    return ((static_cast<std::int32_t>(bits) - vi{}) << lane) & (INT32_MIN - vi{});
}

struct Tile {
    std::int64_t first = 0, count = 0;  // columns
    alignas(64) float b[kRank][kTile];  // with zeros past the columns
};

THIMBLE_INLINE void fill(Tile& tile, const SignedBlock& block, const StackRows& p, std::int64_t k) {
    for (std::int64_t c = 0; c < kTile; ++c) {
        const bool there = c < tile.count;
        float lanes[kRank];
        store_lanes(lanes,
                    there ? load_factors(block.b + (tile.first + c) * p.rank, k, p.rank) : zeros());
        for (int i = 0; i < kRank; ++i) tile.b[i][c] = lanes[i];
    }
}

// Adds one block's part of a tile of one row.
THIMBLE_INLINE void add_tile(const Tile& tile, const SignedBlock& block, const StackRows& p,
                             std::int64_t k, std::int64_t row, float* to) {
    constexpr int kParts = kTile / kLanes;
    float a[kRank];
    store_lanes(a, load_factors(block.a + (p.first + row) * p.rank, k, p.rank));
    vf sum[kParts] = {};
    for (int i = 0; i < kRank; ++i) {
        const vf factor = broadcast(a[i]);
        for (int j = 0; j < kParts; ++j) sum[j] = fma(factor, load(tile.b[i] + j * kLanes), sum[j]);
    }
    const std::int64_t row_bytes = sign_row_bytes(p.cols);
    const std::byte* signs = block.signs + (p.first + row) * row_bytes;
    const vf scale = broadcast(block.scale);
    for (int j = 0; j < kParts && j * kLanes < tile.count; ++j) {
        const vi flip = sign_bits(signs, tile.first + j * kLanes, row_bytes);
        const vf term = reinterpret_cast<vf>(reinterpret_cast<vi>(sum[j]) ^ flip);
        float* at = to + j * kLanes;
        if ((j + 1) * kLanes <= tile.count) {
            store(at, fma(term, scale, load(at)));
            continue;
        }
        float lanes[kLanes];
        store(lanes, term * scale);
        for (std::int64_t i = j * kLanes; i < tile.count; ++i) to[i] += lanes[i - j * kLanes];
    }
}

}  // namespace

// Rows at most kStackRows. A row's sum is made block by block, k by k of 16, in four chains over
// its columns; their lanes are added last.
void stack_product(const StackProduct& p) {
    alignas(64) float inner[kStackRows][kRank];
    alignas(64) float sums[kStackRows][kRank];
    for (std::int64_t t = 0; t < p.tokens; ++t) {
        for (std::int64_t r = 0; r < p.rows; ++r) store_lanes(sums[r], zeros());
        const float* x = p.x + t * p.x_stride;
        for (std::int64_t b = 0; b < p.count; ++b)
            for (std::int64_t k = 0; k < p.rank; k += kRank)
                add_block(p.blocks[b], p, k, x, inner, sums);
        float* out = p.out + t * p.out_stride;
        for (std::int64_t r = 0; r < p.rows; ++r) {
            Lanes lanes = load_lanes(sums[r]);
            for (int i = 1; i < kVectors; ++i) lanes.v[0] += lanes.v[i];
            float sum = sum_lanes(lanes.v[0]);
            if (p.bias != nullptr) sum += p.bias[r];
            out[r] = p.accumulate ? out[r] + sum : sum;
        }
    }
}

void stack_rows(const StackRows& p) {
    for (std::int64_t i = 0; i < p.rows * p.cols; ++i) p.out[i] = 0;
    Tile tile;
    for (tile.first = 0; tile.first < p.cols; tile.first += kTile) {
        tile.count = p.cols - tile.first < kTile ? p.cols - tile.first : kTile;
        for (std::int64_t b = 0; b < p.count; ++b) {
            for (std::int64_t k = 0; k < p.rank; k += kRank) {
                fill(tile, p.blocks[b], p, k);
                for (std::int64_t r = 0; r < p.rows; ++r)
                    add_tile(tile, p.blocks[b], p, k, r, p.out + r * p.cols + tile.first);
            }
        }
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
