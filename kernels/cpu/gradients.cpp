// SPDX-License-Identifier: Apache-2.0
// Backward of norm, gates, sums and softmax, a row or a block of columns at a time; rounding to
// bfloat16 for dense products.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

typedef std::uint32_t vu __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t vh __attribute__((vector_size(2 * kLanes)));
typedef vh vh_unaligned __attribute__((aligned(2), may_alias));

// To nearest, ties to even, in the upper 16 bits; a NaN stays one.
THIMBLE_INLINE vu bf16_bits(vf x) {
    const vu bits = reinterpret_cast<vu>(x);
    const vu rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (x == x ? rounded : bits | 0x400000) & 0xffff0000u;
}
THIMBLE_INLINE void store_bf16(std::uint16_t* p, vf x) {
    *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(bf16_bits(x) >> 16, vh);
}

// The lanes past `count` as minus infinity.
THIMBLE_INLINE vf lowest_past(std::int64_t count, vf v) {
    if (count >= kLanes) return v;
    float lanes[kLanes];
    store(lanes, v);
    for (std::int64_t j = count; j < kLanes; ++j) lanes[j] = -__builtin_inff();
    return load(lanes);
}

THIMBLE_INLINE void store_bf16_part(std::uint16_t* p, std::int64_t count, vf v) {
    if (count >= kLanes) return store_bf16(p, v);
    std::uint16_t rest[kLanes];
    store_bf16(rest, v);
    for (std::int64_t j = 0; j < count; ++j) p[j] = rest[j];
}

// fn(i, left) for every vector of n elements; `left` is a constant but for the last.
template <class Fn>
THIMBLE_INLINE void for_vectors(std::int64_t n, Fn fn) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) fn(i, kLanes);
    if (i < n) fn(i, n - i);
}
#define THIMBLE_EACH [&](std::int64_t i, std::int64_t left) __attribute__((always_inline))

struct Slope {
    vf value, slope;  // of the activation
};

template <class Act>
THIMBLE_INLINE void glu_row(const float* gate, const float* up, const float* dy, std::int64_t n,
                            float* dgate, float* dup, Act act) {
    for_vectors(
        n, THIMBLE_EACH {
            const vf u = load_part(up + i, left), d = load_part(dy + i, left);
            const Slope a = act(load_part(gate + i, left));
            store_part(dgate + i, d * u * a.slope, left);
            store_part(dup + i, d * a.value, left);
        });
}

template <bool capped>
THIMBLE_INLINE void softmax_row(const SoftmaxGradient& row) {
    const vf scale = broadcast(row.scale), cap = broadcast(row.softcap);
    const vf inverse_cap = broadcast(capped ? 1.0f / row.softcap : 0.0f);
    vf largest = broadcast(-__builtin_inff());
    for_vectors(
        row.n, THIMBLE_EACH {
            vf logit = load_part(row.s + i, left) * scale;
            if (capped) logit = cap * tanh(logit * inverse_cap);
            store_part(row.s + i, logit, left);
            largest = max(lowest_past(left, logit), largest);
        });
    const vf top = broadcast(max_lanes(largest));
    vf sum = {}, along = {};
    for_vectors(
        row.n, THIMBLE_EACH {
            const vf e = exp(lowest_past(left, load_part(row.s + i, left)) - top);
            if (!capped) store_part(row.s + i, e, left);
            sum += e;
            along = fma(e, load_part(row.dp + i, left), along);
        });
    const float total = sum_lanes(sum);
    const vf inverse = broadcast(1.0f / total), mean = broadcast(sum_lanes(along) / total);
    for_vectors(
        row.n, THIMBLE_EACH {
            const vf at = load_part(row.s + i, left);
            const vf p = (capped ? exp(at - top) : at) * inverse;
            vf ds = p * (load_part(row.dp + i, left) - mean) * scale;
            if (capped) {
                const vf t = at * inverse_cap;
                ds = ds * (broadcast(1.0f) - t * t);
            }
            if (row.p_bf16 != nullptr) {
                store_bf16_part(row.p_bf16 + i, left, p);
                store_bf16_part(row.ds_bf16 + i, left, ds);
            } else {
                store_part(row.s + i, p, left);
                store_part(row.dp + i, ds, left);
            }
        });
}

}  // namespace

void narrow_bf16(const float* x, std::int64_t n, std::uint16_t* out) {
    for_vectors(
        n, THIMBLE_EACH { store_bf16_part(out + i, left, load_part(x + i, left)); });
}

// The same values as floats.
void round_bf16(const float* x, std::int64_t n, float* out) {
    for_vectors(
        n, THIMBLE_EACH {
            store_part(out + i, reinterpret_cast<vf>(bf16_bits(load_part(x + i, left))), left);
        });
}

// to += factor * x
void add_scaled(const float* x, float factor, std::int64_t n, float* to) {
    const vf f = broadcast(factor);
    for_vectors(
        n, THIMBLE_EACH {
            store_part(to + i, fma(f, load_part(x + i, left), load_part(to + i, left)), left);
        });
}

// 1 / sqrt(mean(x^2) + epsilon)
void inverse_rms(const float* x, std::int64_t n, float epsilon, float* out) {
    vf sum = {};
    for_vectors(
        n, THIMBLE_EACH {
            const vf v = load_part(x + i, left);
            sum = fma(v, v, sum);
        });
    *out = 1.0f / __builtin_sqrtf(sum_lanes(sum) / static_cast<float>(n) + epsilon);
}

// dx (+)= r (dy w - x r^2 mean(dy w x)), r = inverse_rms(x). dx may be dy.
void rms_norm_backward(const RmsNormGradient& p) {
    vf along = {};
    for_vectors(
        p.n, THIMBLE_EACH {
            const vf upstream = load_part(p.dy + i, left) * load_part(p.weight + i, left);
            along = fma(upstream, load_part(p.x + i, left), along);
        });
    const float mean = sum_lanes(along) / static_cast<float>(p.n);
    const vf r = broadcast(p.r), factor = broadcast(p.r * p.r * mean);
    for_vectors(
        p.n, THIMBLE_EACH {
            const vf upstream = load_part(p.dy + i, left) * load_part(p.weight + i, left);
            vf gradient = r * (upstream - load_part(p.x + i, left) * factor);
            if (p.accumulate) gradient += load_part(p.dx + i, left);
            store_part(p.dx + i, gradient, left);
        });
}

// sums[i] += sum over rows t of y[t][i], or of y[t][i] x[t][i] r[t] where x is not null: 64 rows in
// registers at a time, then added to what the sums hold.
void column_sums(const ColumnSums& p) {
    constexpr std::int64_t kRows = 64;
    for (std::int64_t i = 0; i < p.cols; i += kLanes) {
        const std::int64_t left = p.cols - i;
        vf total = load_part(p.sums + i, left);
        for (std::int64_t first = 0; first < p.rows; first += kRows) {
            const std::int64_t end = first + kRows < p.rows ? first + kRows : p.rows;
            vf sum = {};
            for (std::int64_t t = first; t < end; ++t) {
                const vf y = load_part(p.y + t * p.y_stride + i, left);
                if (p.x == nullptr) {
                    sum += y;
                } else {
                    sum =
                        fma(y, load_part(p.x + t * p.x_stride + i, left) * broadcast(p.r[t]), sum);
                }
            }
            total += sum;
        }
        store_part(p.sums + i, total, left);
    }
}

// Of silu(gate) * up: dgate = dy up silu'(gate), dup = dy silu(gate).
void silu_glu_backward(const float* gate, const float* up, const float* dy, std::int64_t n,
                       float* dgate, float* dup) {
    glu_row(
        gate, up, dy, n, dgate, dup, [](vf g) __attribute__((always_inline)) {
            const vf one = broadcast(1.0f), s = one / (one + exp(-g));
            return Slope{g * s, s * fma(g, one - s, one)};
        });
}

// The same of gelu in its tanh form: with s = 0.5 (1 + tanh(y)) = 1 / (1 + e^-2y), gelu = g s and
// gelu' = s + 2 g s (1 - s) y'.
void gelu_glu_backward(const float* gate, const float* up, const float* dy, std::int64_t n,
                       float* dgate, float* dup) {
    glu_row(
        gate, up, dy, n, dgate, dup, [](vf g) __attribute__((always_inline)) {
            const vf one = broadcast(1.0f), linear = broadcast(0.7978845608f);
            const vf cubic = broadcast(0.0356774081f), g2 = g * g;
            const vf y = g * fma(g2, cubic, linear);
            const vf slope = fma(g2, broadcast(3.0f) * cubic, linear);
            const vf s = one / (one + exp(-(y + y)));
            return Slope{g * s, fma((g + g) * slope * s, one - s, s)};
        });
}

// In: s = q k^T and dp = dout v^T of one row over the n slots that it sees. Out: the probabilities
// p = softmax(l(scale s)) and ds = p (dp - sum(p dp)) l'(scale s) scale, in place or as bfloat16.
void softmax_backward(const SoftmaxGradient& row) {
    row.softcap > 0 ? softmax_row<true>(row) : softmax_row<false>(row);
}

}  // namespace thimble::cpu::THIMBLE_ISA
