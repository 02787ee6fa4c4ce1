// SPDX-License-Identifier: Apache-2.0
// Softmax, of a row at once or of partial states {o, max, sum} as attention.cpp makes them.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {

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
    const vf lowest = broadcast(-__builtin_inff());
    for (std::int64_t first = 0; first < rows; first += kLanes) {
        const std::int64_t count = rows - first < kLanes ? rows - first : kLanes;
        const vf old_max = load_part(into_max + first, count);
        const vf new_max = load_part(max + first, count);
        const vf top = old_max > new_max ? old_max : new_max;
        const vf old_factor = exp(old_max - top), new_factor = exp(new_max - top);
        const vf old_sum = load_part(into_sum + first, count);
        const vf both = fma(load_part(sum + first, count), new_factor, old_sum * old_factor);
        store_part(into_max + first, top, count);
        store_part(into_sum + first, new_max == lowest ? old_sum : both, count);
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t r = first + i;
            if (max[r] == -__builtin_inff()) continue;
            const vf old_part = broadcast(old_factor[i]), new_part = broadcast(new_factor[i]);
            for (std::int64_t d = 0; d < dim; d += kLanes) {
                float* to = into_o + r * dim + d;
                const vf part = load_part(o + r * dim + d, dim - d) * new_part;
                store_part(to, fma(load_part(to, dim - d), old_part, part), dim - d);
            }
        }
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
