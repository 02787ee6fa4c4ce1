// SPDX-License-Identifier: Apache-2.0
// Flash-form attention. One tile of at most 64 slots gives each query row a partial state
// {o, max, sum} with o = sum of e^(s - max) v, not normalised; partial states are merged one by
// one (attention_states.cpp). A slot's place in its tile alone decides where it enters the sums, so
// the bits of a row do not depend on how many rows, slots or wholly masked tiles stand beside it.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/layout/q8_0.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr std::int64_t kStrip = 16;  // slots decoded to floats at a time

struct Scratch {
    float q[kAttentionOutputs + kAttentionRows * kLanes];  // [rows, padded], times scale
    // Vector b * kStrip + s: elements b * kLanes and so on of slot s of K or V, which end in zeros;
    // empty slots are zero.
    float strip[kStrip * kMaxHeadDim];
    float row[kMaxHeadDim];
};

THIMBLE_INLINE std::int64_t pad(std::int64_t dim) { return (dim + kLanes - 1) / kLanes * kLanes; }

// Rows of K or V, one for each slot.
struct Rows {
    LayoutId layout;
    const std::byte* data;
    std::size_t slot_bytes;
    std::int64_t dim;
};

using Q8Block = Layout<LayoutId::k_q8_0>::Block;

// Calls use(load) where load(row, b) is vector b of an encoded row as floats. Other layouts than
// f16 and q8_0 are decoded whole when b is 0: there, a row's vectors are asked for in order.
template <class Use>
THIMBLE_INLINE void with_loader(const Rows& rows, float* room, Use use) {
    const bool whole = rows.dim % kLanes == 0;
    if (whole && rows.layout == LayoutId::k_f16) {
        use([](const std::byte* row, std::int64_t b) __attribute__((always_inline)) {
            return load_f16(reinterpret_cast<const std::uint16_t*>(row) + b * kLanes);
        });
    } else if (whole && rows.layout == LayoutId::k_q8_0) {
        use([](const std::byte* row, std::int64_t b) __attribute__((always_inline)) {
            const Q8Block& block = reinterpret_cast<const Q8Block*>(row)[b * kLanes / 32];
            return load_i8(block.codes + b * kLanes % 32) * broadcast_f16(block.d);
        });
    } else {
        use([&](const std::byte* row, std::int64_t b) __attribute__((always_inline)) {
            if (b == 0) {
                for (std::int64_t d = rows.dim; d < pad(rows.dim); ++d) room[d] = 0;
                decode_row(rows.layout, row, rows.dim, room);
            }
            return load(room + b * kLanes);
        });
    }
}

// Asks for the row of the same place in the tile after this one: a step of one token meets keys
// and values at the memory's pace only while they are on their way.
THIMBLE_INLINE void fetch_ahead(const Rows& rows, const std::byte* row) {
    const std::byte* ahead = row + kAttentionSlots * rows.slot_bytes;
    const std::int64_t bytes = rows.layout == LayoutId::k_f16
                                   ? 2 * rows.dim
                                   : rows.dim / 32 * std::int64_t{sizeof(Q8Block)};
    for (std::int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(ahead + b, 0, 2);
}

// Rows [first, first + count) as a strip.
THIMBLE_INLINE void decode_strip(const AttentionTile& tile, const Rows& rows, std::int64_t first,
                                 std::int64_t count, Scratch& scratch) {
    const std::int64_t blocks = pad(rows.dim) / kLanes;
    with_loader(
        rows, scratch.row, [&](auto load) __attribute__((always_inline)) {
            for (std::int64_t s = 0; s < kStrip; ++s) {
                float* to = scratch.strip + s * kLanes;
                const bool full = s < count && tile.positions[first + s] >= 0;
                const std::byte* row =
                    rows.data + static_cast<std::size_t>(first + s) * rows.slot_bytes;
                for (std::int64_t b = 0; b < blocks; ++b)
                    store(to + b * kStrip * kLanes, full ? load(row, b) : vf{});
            }
        });
}

THIMBLE_INLINE bool visible(const AttentionTile& tile, std::int64_t query, std::int64_t key) {
    return key >= 0 && key <= query &&
           (tile.window == 0 || query - key < tile.window || key < tile.sinks);
}

// o[r][B vectors] += sum over s of p[r][s] * v(s, b), slot after slot; `left`: elements of o's
// rows from here on.
template <int R, int B, class Value>
THIMBLE_INLINE void add_vectors(const float* p, Value v, std::int64_t count, float* o,
                                std::int64_t dim, std::int64_t left) {
    vf sums[R][B];
    for (int r = 0; r < R; ++r) {
        for (int b = 0; b < B; ++b)
            sums[r][b] = load_part(o + r * dim + b * kLanes, left - b * kLanes);
    }
    for (std::int64_t s = 0; s < count; ++s) {
        vf values[B];
        for (int b = 0; b < B; ++b) values[b] = v(s, b);
        for (int r = 0; r < R; ++r) {
            for (int b = 0; b < B; ++b)
                sums[r][b] = fma(broadcast(p[r * kAttentionSlots + s]), values[b], sums[r][b]);
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int b = 0; b < B; ++b)
            store_part(o + r * dim + b * kLanes, sums[r][b], left - b * kLanes);
    }
}

// The same of R whole rows: as many sums at once as keep the multipliers busy.
template <int R, class Value>
THIMBLE_INLINE void add_values(const float* p, Value v, std::int64_t count, float* o,
                               std::int64_t dim) {
    const auto from = [&](std::int64_t d) __attribute__((always_inline)) {
        return [ v, d ](std::int64_t s, std::int64_t b) __attribute__((always_inline)) {
            return v(s, d / kLanes + b);
        };
    };
    std::int64_t d = 0;
    for (; d + 4 * kLanes <= dim; d += 4 * kLanes)
        add_vectors<R, 4>(p, from(d), count, o + d, dim, 4 * kLanes);
    for (; d < dim; d += kLanes) add_vectors<R, 1>(p, from(d), count, o + d, dim, dim - d);
}

// fn(r, R) for all rows, R of them at once: a constant of at most what the registers hold.
constexpr int kTogether = kLanes == 16 ? 4 : 2;
template <class Fn>
THIMBLE_INLINE void for_row_blocks(std::int64_t rows, Fn fn) {
    std::int64_t r = 0;
    for (; r + kTogether <= rows; r += kTogether) fn(r, std::integral_constant<int, kTogether>{});
    if (kTogether == 4 && rows - r == 3) return fn(r, std::integral_constant<int, 3>{});
    if (kTogether == 4 && rows - r == 2) return fn(r, std::integral_constant<int, 2>{});
    if (rows - r == 1) fn(r, std::integral_constant<int, 1>{});
}

// Least and largest position of the tile's slots.
struct Range {
    std::int64_t least, most;
};
THIMBLE_INLINE Range range_of(const AttentionTile& tile) {
    Range range = {tile.positions[0], tile.positions[0]};
    for (std::int64_t s = 1; s < tile.slots; ++s) {
        const std::int64_t p = tile.positions[s];
        range.least = p < range.least ? p : range.least;
        range.most = p > range.most ? p : range.most;
    }
    return range;
}

// Caps a row's scores and adds their biases; what the row may not see becomes -infinity.
THIMBLE_INLINE void mask(const AttentionTile& tile, const Range& range, std::int64_t token,
                         float* scores) {
    const float lowest = -__builtin_inff();
    const std::int64_t query = tile.q_positions[token];
    const bool all = range.least >= 0 && range.most <= query &&
                     (tile.window == 0 || query - range.least < tile.window);
    for (std::int64_t s = 0; !all && s < tile.slots; ++s) {
        if (!visible(tile, query, tile.positions[s])) scores[s] = lowest;
    }
    for (std::int64_t s = tile.slots; s < kAttentionSlots; ++s) scores[s] = lowest;
    if (tile.softcap > 0) {
        const vf cap = broadcast(tile.softcap), inverse = broadcast(1.0f / tile.softcap);
        for (std::int64_t s = 0; s < kAttentionSlots; s += kLanes) {
            const vf score = load(scores + s);
            const vf capped = cap * tanh(score * inverse);
            store(scores + s, score == broadcast(lowest) ? score : capped);
        }
    }
    for (std::int64_t s = 0; tile.bias != nullptr && s < tile.slots; ++s) scores[s] += tile.bias[s];
}

// scores becomes e^(s - max); returns {max, sum}.
THIMBLE_INLINE void soften(float* scores, float* max_out, float* sum_out) {
    const float lowest = -__builtin_inff();
    vf largest = broadcast(lowest);
    for (std::int64_t s = 0; s < kAttentionSlots; s += kLanes)
        largest = max(load(scores + s), largest);
    const float top = max_lanes(largest);
    vf total = {};
    for (std::int64_t s = 0; s < kAttentionSlots; s += kLanes) {
        const vf p = top == lowest ? vf{} : exp(load(scores + s) - broadcast(top));
        store(scores + s, p);
        total += p;
    }
    *max_out = top;
    *sum_out = sum_lanes(total);
}

// Few rows meet encoded K and V as they are read; for more, a strip is decoded once. The arithmetic
// is the same. Empty slots may hold anything: only a strip leaves them out; and rows that must be
// decoded whole cannot be met vector by vector.
THIMBLE_INLINE bool reads_once(const Rows& encoded, std::int64_t rows, const Range& range,
                               std::int64_t count) {
    const bool by_vectors = encoded.dim % kLanes == 0 && (encoded.layout == LayoutId::k_f16 ||
                                                          encoded.layout == LayoutId::k_q8_0);
    return by_vectors && rows <= kTogether && range.least >= 0 && count == kStrip;
}

// scores[s] = q . strip[s]
THIMBLE_INLINE void score_strip(const float* q, std::int64_t padded, const float* strip,
                                float* scores) {
    for (std::int64_t s = 0; s < kStrip; s += kLanes) {
        vf parts[kLanes] = {};
        const float* k = strip + s * kLanes;
        for (std::int64_t d = 0; d < padded; d += kLanes, k += kStrip * kLanes) {
            const vf part = load(q + d);
            for (int i = 0; i < kLanes; ++i) parts[i] = fma(part, load(k + i * kLanes), parts[i]);
        }
        store(scores + s, sum_each(parts));
    }
}

// The same of a few rows and keys as they are encoded; the scratch's strip holds sums not yet added
// up.
THIMBLE_INLINE void score_once(const Rows& keys, std::int64_t rows, std::int64_t first,
                               Scratch& scratch, float* scores) {
    const std::int64_t padded = pad(keys.dim), blocks = padded / kLanes;
    with_loader(
        keys, scratch.row, [&](auto load_key) __attribute__((always_inline)) {
            for_row_blocks(
                rows, [&]<int R>(std::int64_t,
                                 std::integral_constant<int, R>) __attribute__((always_inline)) {
                    for (std::int64_t s = 0; s < kStrip; ++s) {
                        const std::byte* row =
                            keys.data + static_cast<std::size_t>(first + s) * keys.slot_bytes;
                        fetch_ahead(keys, row);
                        vf sums[R] = {};
                        for (std::int64_t b = 0; b < blocks; ++b) {
                            const vf key = load_key(row, b);
                            for (int r = 0; r < R; ++r)
                                sums[r] =
                                    fma(load(scratch.q + r * padded + b * kLanes), key, sums[r]);
                        }
                        for (int r = 0; r < R; ++r)
                            store(scratch.strip + (r * kStrip + s) * kLanes, sums[r]);
                    }
                });
        });
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t s = 0; s < kStrip; s += kLanes) {
            vf parts[kLanes];
            for (int i = 0; i < kLanes; ++i)
                parts[i] = load(scratch.strip + (r * kStrip + s + i) * kLanes);
            store(scores + r * kAttentionSlots + s, sum_each(parts));
        }
    }
}

// scores [rows, kAttentionSlots]
THIMBLE_INLINE void score(const AttentionTile& tile, Scratch& scratch, float* scores) {
    const std::int64_t padded = pad(tile.k_dim), rows = tile.tokens * tile.group;
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* q = tile.q + r / tile.group * tile.q_stride + r % tile.group * tile.dim;
        float* to = scratch.q + r * padded;
        if (tile.channels != nullptr) {
            for (std::int64_t d = 0; d < tile.k_dim; ++d) to[d] = q[tile.channels[d]] * tile.scale;
        } else {
            for (std::int64_t d = 0; d < tile.k_dim; ++d) to[d] = q[d] * tile.scale;
        }
        for (std::int64_t d = tile.k_dim; d < padded; ++d) to[d] = 0;
    }
    const Rows keys = {tile.k_layout, tile.k, tile.k_slot_bytes, tile.k_dim};
    const Range range = range_of(tile);
    for (std::int64_t first = 0; first < tile.slots; first += kStrip) {
        const std::int64_t count = tile.slots - first < kStrip ? tile.slots - first : kStrip;
        float* to = scores + first;
        if (reads_once(keys, rows, range, count)) {
            score_once(keys, rows, first, scratch, to);
            continue;
        }
        decode_strip(tile, keys, first, count, scratch);
        for (std::int64_t r = 0; r < rows; ++r)
            score_strip(scratch.q + r * padded, padded, scratch.strip, to + r * kAttentionSlots);
    }
    for (std::int64_t r = 0; r < rows; ++r)
        mask(tile, range, r / tile.group, scores + r * kAttentionSlots);
}

}  // namespace

// Logits of rows token * group + head: scores [rows, kAttentionSlots], -infinity where a slot is
// empty or hidden from the row.
void attention_scores(const AttentionTile& tile, float* scores) {
    Scratch scratch;
    score(tile, scratch, scores);
}

// Partial state of rows token * group + head: o [rows, dim], max [rows], sum [rows].
void attention_tile(const AttentionTile& tile, float* o, float* max, float* sum) {
    Scratch scratch;
    float scores[kAttentionRows * kAttentionSlots];
    score(tile, scratch, scores);
    const std::int64_t rows = tile.tokens * tile.group;
    for (std::int64_t r = 0; r < rows; ++r) {
        soften(scores + r * kAttentionSlots, max + r, sum + r);
        for (std::int64_t d = 0; d < tile.dim; ++d) o[r * tile.dim + d] = 0;
    }
    const Rows values = {tile.v_layout, tile.v, tile.v_slot_bytes, tile.dim};
    const Range range = range_of(tile);
    for (std::int64_t first = 0; first < tile.slots; first += kStrip) {
        const std::int64_t count = tile.slots - first < kStrip ? tile.slots - first : kStrip;
        const auto add = [&](auto value) __attribute__((always_inline)) {
            for_row_blocks(
                rows, [&]<int R>(std::int64_t r, std::integral_constant<int, R>)
                          __attribute__((always_inline)) {
                              add_values<R>(scores + r * kAttentionSlots + first, value, count,
                                            o + r * tile.dim, tile.dim);
                          });
        };
        if (reads_once(values, rows, range, count)) {
            const std::byte* data = tile.v + static_cast<std::size_t>(first) * tile.v_slot_bytes;
            for (std::int64_t s = 0; s < kStrip; ++s)
                fetch_ahead(values, data + static_cast<std::size_t>(s) * tile.v_slot_bytes);
            with_loader(
                values, scratch.row, [&](auto load_value) __attribute__((always_inline)) {
                    add([&](std::int64_t s, std::int64_t b) __attribute__((always_inline)) {
                        return load_value(data + static_cast<std::size_t>(s) * tile.v_slot_bytes,
                                          b);
                    });
                });
        } else {
            decode_strip(tile, values, first, count, scratch);
            add([&](std::int64_t s, std::int64_t b) __attribute__((always_inline)) {
                return load(scratch.strip + (b * kStrip + s) * kLanes);
            });
        }
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
