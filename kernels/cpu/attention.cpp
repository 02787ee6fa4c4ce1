// SPDX-License-Identifier: Apache-2.0
// Flash-form attention. One tile of at most 64 slots gives each query row a partial state
// {o, max, sum} with o = sum of e^(s - max) v, not normalised; partial states are merged one by
// one. A slot's place in its tile alone decides where it enters the sums, so the bits of a row do
// not depend on how many rows, slots or wholly masked tiles stand beside it.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr std::int64_t kStrip = 16;  // slots decoded to floats at a time

struct Scratch {
    float q[kAttentionOutputs + kAttentionRows * kLanes];  // [rows, padded], times scale
    float strip[kStrip * kMaxHeadDim];                     // [kStrip, padded]
};

THIMBLE_INLINE std::int64_t pad(std::int64_t dim) { return (dim + kLanes - 1) / kLanes * kLanes; }

// Rows [first, first + count) of K or V as floats, the rest of each row and empty slots zero.
THIMBLE_INLINE void decode_strip(const AttentionTile& tile, LayoutId layout, const std::byte* rows,
                                 std::size_t slot_bytes, std::int64_t dim, std::int64_t first,
                                 std::int64_t count, float* strip) {
    const std::int64_t padded = pad(dim);
    for (std::int64_t i = 0; i < count; ++i) {
        float* row = strip + i * padded;
        std::int64_t filled = 0;
        if (tile.positions[first + i] >= 0) {
            decode_row(layout, rows + static_cast<std::size_t>(first + i) * slot_bytes, dim, row);
            filled = dim;
        }
        for (std::int64_t d = filled; d < padded; ++d) row[d] = 0;
    }
}

THIMBLE_INLINE bool visible(const AttentionTile& tile, std::int64_t query, std::int64_t key) {
    return key >= 0 && key <= query &&
           (tile.window == 0 || query - key < tile.window || key < tile.sinks);
}

// out[n vectors] += sum over s of p[s] * v[s], slot after slot.
template <int n>
THIMBLE_INLINE void add_values(const float* p, const float* v, std::int64_t count,
                               std::int64_t stride, float* out) {
    vf sums[n];
    for (int i = 0; i < n; ++i) sums[i] = load(out + i * kLanes);
    for (std::int64_t s = 0; s < count; ++s) {
        for (int i = 0; i < n; ++i)
            sums[i] = fma(broadcast(p[s]), load(v + s * stride + i * kLanes), sums[i]);
    }
    for (int i = 0; i < n; ++i) store(out + i * kLanes, sums[i]);
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

// scores [rows, kAttentionSlots]
THIMBLE_INLINE void score(const AttentionTile& tile, Scratch& scratch, float* scores) {
    const std::int64_t padded = pad(tile.k_dim), rows = tile.tokens * tile.group;
    for (std::int64_t r = 0; r < rows; ++r) {
        const float* q = tile.q + r / tile.group * tile.q_stride + r % tile.group * tile.dim;
        float* to = scratch.q + r * padded;
        for (std::int64_t d = 0; d < tile.k_dim; ++d)
            to[d] = q[tile.channels != nullptr ? tile.channels[d] : d] * tile.scale;
        for (std::int64_t d = tile.k_dim; d < padded; ++d) to[d] = 0;
    }
    for (std::int64_t first = 0; first < tile.slots; first += kStrip) {
        const std::int64_t count = tile.slots - first < kStrip ? tile.slots - first : kStrip;
        decode_strip(tile, tile.k_layout, tile.k, tile.k_slot_bytes, tile.k_dim, first, count,
                     scratch.strip);
        for (std::int64_t s = count; s < kStrip; ++s) {
            for (std::int64_t d = 0; d < padded; ++d) scratch.strip[s * padded + d] = 0;
        }
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t s = 0; s < kStrip; s += kLanes) {
                vf parts[kLanes] = {};
                for (std::int64_t d = 0; d < padded; d += kLanes) {
                    const vf q = load(scratch.q + r * padded + d);
                    for (int i = 0; i < kLanes; ++i)
                        parts[i] = fma(q, load(scratch.strip + (s + i) * padded + d), parts[i]);
                }
                store(scores + r * kAttentionSlots + first + s, sum_each(parts));
            }
        }
    }
    const Range range = range_of(tile);
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
    const std::int64_t padded = pad(tile.dim), rows = tile.tokens * tile.group;
    for (std::int64_t r = 0; r < rows; ++r) {
        soften(scores + r * kAttentionSlots, max + r, sum + r);
        for (std::int64_t d = 0; d < tile.dim; ++d) o[r * tile.dim + d] = 0;
    }
    for (std::int64_t first = 0; first < tile.slots; first += kStrip) {
        const std::int64_t count = tile.slots - first < kStrip ? tile.slots - first : kStrip;
        decode_strip(tile, tile.v_layout, tile.v, tile.v_slot_bytes, tile.dim, first, count,
                     scratch.strip);
        for (std::int64_t r = 0; r < rows; ++r) {
            float* to = o + r * tile.dim;
            const float* p = scores + r * kAttentionSlots + first;
            std::int64_t d = 0;
            for (; d + 4 * kLanes <= tile.dim; d += 4 * kLanes)
                add_values<4>(p, scratch.strip + d, count, padded, to + d);
            for (; d + kLanes <= tile.dim; d += kLanes)
                add_values<1>(p, scratch.strip + d, count, padded, to + d);
            for (; d < tile.dim; ++d) {
                for (std::int64_t s = 0; s < count; ++s)
                    to[d] = fma(p[s], scratch.strip[s * padded + d], to[d]);
            }
        }
    }
}

// x := e^(x - log(sum(e^x))); -infinity becomes 0, and a row of nothing else 0 throughout.
// log_sum: that logarithm.
void softmax_row(float* x, std::int64_t n, float* log_sum) {
    const float lowest = -__builtin_inff();
    float top = lowest;
    for (std::int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
    *log_sum = lowest;
    if (top == lowest) {
        for (std::int64_t i = 0; i < n; ++i) x[i] = 0;
        return;
    }
    vf total = {};
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const vf e = exp(load(x + i) - broadcast(top));
        store(x + i, e);
        total += e;
    }
    float sum = sum_lanes(total);
    for (; i < n; ++i) {
        x[i] = exp(broadcast(x[i] - top))[0];
        sum += x[i];
    }
    const float inverse = 1.0f / sum;
    for (std::int64_t k = 0; k < n; ++k) x[k] *= inverse;
    *log_sum = top + __builtin_logf(sum);
}

// into := merge(into, part). A part that saw nothing leaves every bit as it was.
void attention_merge(const float* o, const float* max, const float* sum, std::int64_t rows,
                     std::int64_t dim, float* into_o, float* into_max, float* into_sum) {
    for (std::int64_t r = 0; r < rows; ++r) {
        if (max[r] == -__builtin_inff()) continue;
        const float top = into_max[r] > max[r] ? into_max[r] : max[r];
        const float old_factor = exp(broadcast(into_max[r] - top))[0];
        const float new_factor = exp(broadcast(max[r] - top))[0];
        into_max[r] = top;
        into_sum[r] = into_sum[r] * old_factor + sum[r] * new_factor;
        for (std::int64_t d = r * dim; d < (r + 1) * dim; ++d)
            into_o[d] = into_o[d] * old_factor + o[d] * new_factor;
    }
}

// o /= sum; rows that saw nothing become zero.
void attention_finish(float* o, const float* sum, std::int64_t rows, std::int64_t dim) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const float inverse = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
        for (std::int64_t d = r * dim; d < (r + 1) * dim; ++d) o[d] *= inverse;
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
