// SPDX-License-Identifier: Apache-2.0
// Feed-forward blocks that drop small activations: "CHESS: Optimizing LLM Inference via
// Channel-Wise Thresholding and Selective Sparsification" (2024). Rows are read one after the other
// from end to end, some at a time, while as many after them are fetched: they lie all over the
// matrix, and each is too short for the hardware to fetch ahead in time. They are fetched into the
// second cache: the first has too few places for lines on their way (measured on Zen: 16 GB/s into
// the first, 25 into the second, where one stream of all weights has 33).
#include "kernels/cpu/activation.h"
#include "kernels/cpu/kernels.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr int kRows = kLanes == 16 ? 8 : 4;  // at a time, as there are registers
constexpr std::int64_t kLine = 64;

THIMBLE_INLINE vf activation(bool gelu, vf g) { return gelu ? gelu_tanh(g) : silu(g); }
THIMBLE_INLINE vi is_kept(vf a, vf least) { return ~(max(a, -a) <= least); }

struct F32 {
    using Stored = float;
    THIMBLE_INLINE vf load_row(const float* p) { return load(p); }
    THIMBLE_INLINE float one(float x) { return x; }
};
struct F16 {
    using Stored = std::uint16_t;
    THIMBLE_INLINE vf load_row(const std::uint16_t* p) { return load_f16(p); }
    THIMBLE_INLINE float one(std::uint16_t x) { return f16_to_f32(x); }
};
struct Bf16 {
    using Stored = std::uint16_t;
    THIMBLE_INLINE vf load_row(const std::uint16_t* p) { return load_bf16(p); }
    THIMBLE_INLINE float one(std::uint16_t x) { return bf16_to_f32(x); }
};

// Rows [first, first + n) of the list, and those that come after them.
template <class T, int n>
struct Rows {
    const typename T::Stored* now[n];
    const char* next[n];
    THIMBLE_INLINE Rows at(const ListedRows& p, std::int64_t first) {
        Rows rows;
        const auto row = [&](std::int64_t i) __attribute__((always_inline)) {
            return p.weights + static_cast<std::size_t>(p.rows[i]) * p.row_bytes;
        };
        for (int j = 0; j < n; ++j) {
            const std::int64_t after = first + n + j;
            rows.now[j] = reinterpret_cast<const typename T::Stored*>(row(first + j));
            rows.next[j] =
                reinterpret_cast<const char*>(row(after < p.count ? after : p.count - 1));
        }
        return rows;
    }
    // What lies in the next rows where these are read.
    THIMBLE_INLINE void fetch(const Rows& rows, std::int64_t column) {
        const auto byte = column * static_cast<std::int64_t>(sizeof(typename T::Stored));
        if (byte % kLine != 0) return;
        for (int j = 0; j < n; ++j) __builtin_prefetch(rows.next[j] + byte, 0, 2);
    }
};

// A row's sum is added up in the same order however many stand beside it.
template <class T, int n>
THIMBLE_INLINE void multiply(const ListedRows& p, std::int64_t first, const float* x) {
    const auto rows = Rows<T, n>::at(p, first);
    vf even[n] = {}, odd[n] = {};
    std::int64_t k = 0;
    for (; k + 2 * kLanes <= p.cols; k += 2 * kLanes) {
        Rows<T, n>::fetch(rows, k);
        const vf a = load(x + k), b = load(x + k + kLanes);
        for (int j = 0; j < n; ++j) {
            even[j] = fma(a, T::load_row(rows.now[j] + k), even[j]);
            odd[j] = fma(b, T::load_row(rows.now[j] + k + kLanes), odd[j]);
        }
    }
    for (int j = 0; j < n; ++j) {
        float sum = sum_lanes(even[j] + odd[j]);
        for (std::int64_t i = k; i < p.cols; ++i) sum = fma(x[i], T::one(rows.now[j][i]), sum);
        p.values[first + j] *= sum;
    }
}

template <class T, int n>
THIMBLE_INLINE void add(const ListedRows& p, std::int64_t first, float* y) {
    const auto rows = Rows<T, n>::at(p, first);
    const float* s = p.values + first;
    std::int64_t k = 0;
    for (; k + kLanes <= p.cols; k += kLanes) {
        Rows<T, n>::fetch(rows, k);
        vf sum = load(y + k);
        for (int j = 0; j < n; ++j) sum = fma(broadcast(s[j]), T::load_row(rows.now[j] + k), sum);
        store(y + k, sum);
    }
    for (; k < p.cols; ++k) {
        for (int j = 0; j < n; ++j) y[k] = fma(s[j], T::one(rows.now[j][k]), y[k]);
    }
}

template <class T>
THIMBLE_INLINE void multiply_all(const ListedRows& p, const float* x) {
    std::int64_t i = 0;
    for (; i + kRows <= p.count; i += kRows) multiply<T, kRows>(p, i, x);
    for (; i < p.count; ++i) multiply<T, 1>(p, i, x);
}
template <class T>
THIMBLE_INLINE void add_all(const ListedRows& p, float* y) {
    std::int64_t i = 0;
    for (; i + kRows <= p.count; i += kRows) add<T, kRows>(p, i, y);
    for (; i < p.count; ++i) add<T, 1>(p, i, y);
}

// The lanes that are kept, to the ends of the lists.
THIMBLE_INLINE void append(const KeptChannels& p, std::int64_t first, vf a, vi kept) {
#if defined(THIMBLE_ISA_avx512)
    // Packed in registers: a store that packs takes hundreds of cycles on some machines.
    const __mmask16 mask = _mm512_movepi32_mask(reinterpret_cast<__m512i>(kept));
    const __m512i places =
        _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                         _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    _mm512_storeu_si512(p.channels + *p.count, _mm512_maskz_compress_epi32(mask, places));
    _mm512_storeu_ps(p.values + *p.count, _mm512_maskz_compress_ps(mask, a));
    *p.count += __builtin_popcount(mask);
#else
    for (int i = 0; i < kLanes; ++i) {
        p.channels[*p.count] = static_cast<std::int32_t>(first + i);
        p.values[*p.count] = a[i];
        *p.count += kept[i] & 1;
    }
#endif
}

}  // namespace

void glu_above(const GluAbove& p) {
    const auto gated = [&](vf g, vf u, vf least) __attribute__((always_inline)) {
        const vf a = activation(p.gelu, g), product = a * u;
        return is_kept(a, least) ? product : vf{};
    };
    std::int64_t i = 0;
    for (; i + kLanes <= p.n; i += kLanes)
        store(p.out + i, gated(load(p.gate + i), load(p.up + i), load(p.least + i)));
    if (i == p.n) return;
    float gate[kLanes] = {}, up[kLanes] = {}, least[kLanes] = {}, out[kLanes];
    for (std::int64_t j = i; j < p.n; ++j)
        gate[j - i] = p.gate[j], up[j - i] = p.up[j], least[j - i] = p.least[j];
    store(out, gated(load(gate), load(up), load(least)));
    for (std::int64_t j = i; j < p.n; ++j) p.out[j] = out[j - i];
}

void list_kept(const KeptChannels& p) {
    *p.count = 0;
    std::int64_t i = 0;
    for (; i + kLanes <= p.n; i += kLanes) {
        const vf a = activation(p.gelu, load(p.gate + i));
        append(p, i, a, is_kept(a, load(p.least + i)));
    }
    if (i == p.n) return;
    float gate[kLanes] = {}, least[kLanes];  // what pads them is not above
    for (std::int64_t j = 0; j < kLanes; ++j) {
        least[j] = __builtin_inff();
        if (i + j < p.n) gate[j] = p.gate[i + j], least[j] = p.least[i + j];
    }
    const vf a = activation(p.gelu, load(gate));
    append(p, i, a, is_kept(a, load(least)));
}

// values[i] *= x . row rows[i]
void multiply_by_rows(const ListedRows& p, const float* x) {
    if (p.layout == LayoutId::k_f32) return multiply_all<F32>(p, x);
    if (p.layout == LayoutId::k_f16) return multiply_all<F16>(p, x);
    multiply_all<Bf16>(p, x);
}

// y += sum over i of values[i] * row rows[i], in the order of the list
void add_rows(const ListedRows& p, float* y) {
    if (p.layout == LayoutId::k_f32) return add_all<F32>(p, y);
    if (p.layout == LayoutId::k_f16) return add_all<F16>(p, y);
    add_all<Bf16>(p, y);
}

}  // namespace thimble::cpu::THIMBLE_ISA
