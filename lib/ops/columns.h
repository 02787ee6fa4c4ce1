// SPDX-License-Identifier: Apache-2.0
// Operations of adapters, forward and backward. Views are in exec.dtype().
#pragma once

#include <optional>

#include "ops/ops.h"

namespace thimble::ops {

// out[t][i] = x[t][i] * factors[i] (+ bias[i]). x, out: [T, n] (out may be x); factors, bias: [1,
// n].
void scale_columns(const Exec& exec, View x, View factors, const std::optional<View>& bias,
                   View out);

// db[i] += sum over t of dy[t][i] y[t][i], in the order of t. dy, y: [T, n]; db: [1, n].
void column_dots(const Exec& exec, View dy, View y, View db);

// out[t][i] = 0 with probability `rate`, else x[t][i] / (1 - rate). Element e = t * n + i draws
// word e % 4 of Philox(seed, e / 4, stream), so that a later call drops the same ones. x, out: [T,
// n]; out may be x.
void dropout(const Exec& exec, View x, double rate, std::uint64_t seed, std::uint64_t stream,
             View out);

// row [in] += scale * b A. A: [rank, in]; b: [rank]. In double, as all that adds such terms to a
// row.
void add_terms(const float* a, std::span<const float> b, double scale, std::span<double> row);

// lengths[r] = |W_r + scale * B_r A|: of the rows of a matrix with a low-rank term. weight: [out,
// in] in any stored layout; a: [rank, in], b: [out, rank], F32.
void row_lengths(const Exec& exec, const PackedView& weight, const PackedView& a,
                 const PackedView& b, double scale, std::span<double> lengths);

}  // namespace thimble::ops
