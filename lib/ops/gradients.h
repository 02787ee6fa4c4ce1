// SPDX-License-Identifier: Apache-2.0
// The backward operations: from the gradient of a result to those of its inputs. Views are in
// exec.dtype(). Products are those of Products::kDense, which exec must ask for (but on
// Device::kRef). Gradients are added to what the outputs hold unless a comment says "=". A result
// has the same bits at any thread count. Shapes: T = tokens in this step.
#pragma once

#include "ops/ops.h"

namespace thimble::ops {

// Whether the machine multiplies BF16 in hardware, up to this level.
[[nodiscard]] bool has_bf16_products(Isa isa);

// dx (+)= dy w. dy: [T, out]; w: [out, in] in any stored layout; dx: [T, in].
void matmul_t(const Exec& exec, MatmulInput& dy, const PackedView& weight, View dx,
              bool accumulate);
// dw += dy^T x. dw: [out, in].
void weight_gradient(const Exec& exec, MatmulInput& dy, MatmulInput& x, View dw);
// Workspace bytes of matmul_t, besides what the MatmulInput holds; weight_gradient takes none.
[[nodiscard]] std::size_t matmul_t_bytes(const Exec& exec, Shape2 weight);

// x = 0. x: [T, n].
void clear(const Exec& exec, View x);

// db[i] += sum over t of dy[t][i]. dy: [T, n]; db: [1, n].
void column_sums(const Exec& exec, View dy, View db);

// Of rms_norm(x, weight, eps): dx += ..., dweight += ... where it is not null.
// With r = 1 / sqrt(mean(x^2) + eps): dx = r (dy w - x r^2 mean(dy w x)), dw = sum of dy x r.
// x, dy, dx: [T, n] (dx may be dy: then dx = ...); weight, dweight: [1, n].
void rms_norm_backward(const Exec& exec, View x, View weight, double eps, View dy, View dx,
                       const View* dweight);
[[nodiscard]] std::size_t rms_norm_backward_bytes(const Exec& exec, std::int64_t tokens);

// Of glu(act, gate, up): dgate = dy up act'(gate), dup = dy act(gate); either may be dy, gate or
// up.
void glu_backward(const Exec& exec, Gate act, View gate, View up, View dy, View dgate, View dup);

// Of embed(): dtable[tokens[t]] += factor dx[t], in the order of t. dtable: [vocab, n].
void embed_backward(const Exec& exec, std::span<const std::int32_t> tokens, double factor, View dx,
                    View dtable);

// Of attention within one document: row t of q sees rows s <= t of k and v (within the window).
// The probabilities are computed anew, a block of queries at a time.
struct AttentionGradient {
    View q;           // [T, heads * head_dim], rotated
    View k, v;        // [T, kv_heads * head_dim], k rotated
    View dout;        // [T, heads * head_dim]
    View dq, dk, dv;  // =; of q and k as rotated; dq may be dout
    int heads = 0, kv_heads = 0, head_dim = 0;
    double scale = 0;
    std::int64_t window = 0;  // 0: none
    double softcap = 0;       // 0: none
};
void attention_backward(const Exec& exec, const AttentionGradient& problem);
// Workspace bytes for a document of `tokens` tokens.
[[nodiscard]] std::size_t attention_backward_bytes(const Exec& exec, std::int64_t tokens, int heads,
                                                   int kv_heads, int head_dim);

}  // namespace thimble::ops
