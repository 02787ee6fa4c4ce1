// SPDX-License-Identifier: Apache-2.0
// Backward of norm, gates, sums and softmax, a row or a block of columns at a time; rounding to
// bfloat16 for dense products.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

typedef std::uint16_t vh __attribute__((vector_size(2 * kLanes)));
typedef vh vh_unaligned __attribute__((aligned(2), may_alias));

// To nearest, ties to even, in the upper 16 bits; a NaN stays one.
THIMBLE_INLINE vi bf16_bits(vf x) {
    const vi bits = reinterpret_cast<vi>(x);
    const vi odd = (bits >> 16) & 1;
    const vi rounded = (bits + 0x7fff + odd) & static_cast<std::int32_t>(0xffff0000u);
    return x == x ? rounded : ((bits | 0x400000) & static_cast<std::int32_t>(0xffff0000u));
}
THIMBLE_INLINE void store_bf16(std::uint16_t* p, vf x) {
    typedef std::uint32_t vu __attribute__((vector_size(4 * kLanes)));
    const vu upper = reinterpret_cast<vu>(bf16_bits(x)) >> 16;
    *reinterpret_cast<vh_unaligned*>(p) = __builtin_convertvector(upper, vh);
}

// Of the last `count` elements of an array: whole vectors, then its rest beside zeros.
THIMBLE_INLINE vf load_part(const float* p, std::int64_t count) {
    if (count >= kLanes) return load(p);
    float rest[kLanes] = {};
    for (std::int64_t j = 0; j < count; ++j) rest[j] = p[j];
    return load(rest);
}
THIMBLE_INLINE void store_part(float* p, std::int64_t count, vf v) {
    if (count >= kLanes) return store(p, v);
    float rest[kLanes];
    store(rest, v);
    for (std::int64_t j = 0; j < count; ++j) p[j] = rest[j];
}

struct Slope {
    vf value, slope;  // of the activation
};

template <class Act>
THIMBLE_INLINE void glu_row(const float* gate, const float* up, const float* dy, std::int64_t n,
                            float* dgate, float* dup, Act act) {
    for (std::int64_t i = 0; i < n; i += kLanes) {
        const std::int64_t left = n - i;
        const vf u = load_part(up + i, left), d = load_part(dy + i, left);
        const Slope a = act(load_part(gate + i, left));
        store_part(dgate + i, left, d * u * a.slope);
        store_part(dup + i, left, d * a.value);
    }
}

}  // namespace

void narrow_bf16(const float* x, std::int64_t n, std::uint16_t* out) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store_bf16(out + i, load(x + i));
    if (i == n) return;
    std::uint16_t rest[kLanes];
    store_bf16(rest, load_part(x + i, n - i));
    for (std::int64_t j = i; j < n; ++j) out[j] = rest[j - i];
}

// The same values as floats.
void round_bf16(const float* x, std::int64_t n, float* out) {
    for (std::int64_t i = 0; i < n; i += kLanes)
        store_part(out + i, n - i, reinterpret_cast<vf>(bf16_bits(load_part(x + i, n - i))));
}

// to += factor * x
void add_scaled(const float* x, float factor, std::int64_t n, float* to) {
    const vf f = broadcast(factor);
    for (std::int64_t i = 0; i < n; i += kLanes)
        store_part(to + i, n - i, fma(f, load_part(x + i, n - i), load_part(to + i, n - i)));
}

// 1 / sqrt(mean(x^2) + epsilon)
void inverse_rms(const float* x, std::int64_t n, float epsilon, float* out) {
    vf sum = {};
    for (std::int64_t i = 0; i < n; i += kLanes) {
        const vf v = load_part(x + i, n - i);
        sum = fma(v, v, sum);
    }
    *out = 1.0f / __builtin_sqrtf(sum_lanes(sum) / static_cast<float>(n) + epsilon);
}

// dx (+)= r (dy w - x r^2 mean(dy w x)), r = inverse_rms(x). dx may be dy.
void rms_norm_backward(const RmsNormGradient& p) {
    vf along = {};
    for (std::int64_t i = 0; i < p.n; i += kLanes) {
        const std::int64_t left = p.n - i;
        along = fma(load_part(p.dy + i, left) * load_part(p.weight + i, left),
                    load_part(p.x + i, left), along);
    }
    const float mean = sum_lanes(along) / static_cast<float>(p.n);
    const vf r = broadcast(p.r), factor = broadcast(p.r * p.r * mean);
    for (std::int64_t i = 0; i < p.n; i += kLanes) {
        const std::int64_t left = p.n - i;
        const vf upstream = load_part(p.dy + i, left) * load_part(p.weight + i, left);
        vf gradient = r * (upstream - load_part(p.x + i, left) * factor);
        if (p.accumulate) gradient += load_part(p.dx + i, left);
        store_part(p.dx + i, left, gradient);
    }
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
        store_part(p.sums + i, left, total);
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
    const vf scale = broadcast(row.scale), cap = broadcast(row.softcap);
    const vf inverse_cap = broadcast(row.softcap > 0 ? 1.0f / row.softcap : 0.0f);
    const vf lowest = broadcast(-__builtin_inff());
    const auto padded = [&](vf v, std::int64_t left) __attribute__((always_inline)) {
        if (left >= kLanes) return v;
        float lanes[kLanes];
        store(lanes, v);
        for (std::int64_t j = left; j < kLanes; ++j) lanes[j] = -__builtin_inff();
        return load(lanes);
    };
    vf largest = lowest;
    for (std::int64_t i = 0; i < row.n; i += kLanes) {
        vf l = load_part(row.s + i, row.n - i) * scale;
        if (row.softcap > 0) l = cap * tanh(l * inverse_cap);
        store_part(row.s + i, row.n - i, l);
        largest = max(padded(l, row.n - i), largest);
    }
    const vf top = broadcast(max_lanes(largest));
    vf sum = {}, along = {};
    for (std::int64_t i = 0; i < row.n; i += kLanes) {
        const vf e = exp(padded(load_part(row.s + i, row.n - i), row.n - i) - top);
        sum += e;
        along = fma(e, load_part(row.dp + i, row.n - i), along);
    }
    const float total = sum_lanes(sum);
    const vf inverse = broadcast(1.0f / total), mean = broadcast(sum_lanes(along) / total);
    for (std::int64_t i = 0; i < row.n; i += kLanes) {
        const std::int64_t left = row.n - i;
        const vf l = load_part(row.s + i, left), p = exp(l - top) * inverse;
        vf ds = p * (load_part(row.dp + i, left) - mean) * scale;
        if (row.softcap > 0) {
            const vf t = l * inverse_cap;
            ds = ds * (broadcast(1.0f) - t * t);
        }
        store_part(row.s + i, left, p);
        store_part(row.dp + i, left, ds);
    }
    if (row.p_bf16 == nullptr) return;
    narrow_bf16(row.s, row.n, row.p_bf16);
    narrow_bf16(row.dp, row.n, row.ds_bf16);
}

}  // namespace thimble::cpu::THIMBLE_ISA
