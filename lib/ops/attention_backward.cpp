// SPDX-License-Identifier: Apache-2.0
// Backward of attention within one document. A task owns one query head and walks its queries in
// blocks, each against all keys that some query of the block sees; the gradients of keys and values
// of heads that share them are added up afterwards, in order.
#include <algorithm>
#include <vector>

#include "kernels/ref/gradients.h"
#include "ops/dense.h"
#include "ops/gradients.h"
#include "ops/on_cuda.h"

namespace thimble::ops {
namespace {

constexpr std::int64_t kBlock = 128;  // queries

std::int64_t first_key(const AttentionGradient& a, std::int64_t query) {
    return a.window == 0 ? 0 : std::max<std::int64_t>(0, query - a.window + 1);
}

void run_ref(const Exec& exec, const AttentionGradient& a) {
    const std::int64_t tokens = a.q.rows, dim = a.head_dim, group = a.heads / a.kv_heads;
    exec.team->run(a.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> dq(static_cast<std::size_t>(dim));
        for (std::int64_t kv = begin; kv < end; ++kv) {
            const auto row = [&](const View& v) {
                return [&v, at = kv * dim](std::int64_t s) { return v.row<double>(s) + at; };
            };
            for (std::int64_t t = 0; t < tokens; ++t) {
                std::fill_n(a.dk.row<double>(t) + kv * dim, dim, 0.0);
                std::fill_n(a.dv.row<double>(t) + kv * dim, dim, 0.0);
            }
            for (std::int64_t h = kv * group; h < (kv + 1) * group; ++h) {
                for (std::int64_t t = 0; t < tokens; ++t) {
                    ref::attend_backward(a.q.row<double>(t) + h * dim,
                                         a.dout.row<double>(t) + h * dim, first_key(a, t), t + 1,
                                         dim, a.scale, a.softcap, row(a.k), row(a.v), row(a.dk),
                                         row(a.dv), dq.data());
                    std::copy(dq.begin(), dq.end(), a.dq.row<double>(t) + h * dim);
                }
            }
        }
    });
}

// The operands, and one thread's [block, keys] arrays.
struct Operands {
    View q, k, v, dout;
};
struct Scratch {
    View s, dp;  // F32
    View p, ds;  // as operands
};

std::int64_t keys_of_block(const AttentionGradient& a, std::int64_t tokens) {
    return a.window == 0 ? tokens : std::min(tokens, a.window + kBlock - 1);
}

// Scores to probabilities and their gradients, zero where a query does not see a key.
void soften(const Exec& exec, const AttentionGradient& a, std::int64_t query, std::int64_t key,
            const Scratch& block) {
    const auto& table = kernels(exec.isa);
    const bool narrow = block.p.dtype == DType::kBF16;
    for (std::int64_t r = 0; r < block.s.rows; ++r) {
        const std::int64_t first = first_key(a, query + r) - key, end = query + r + 1 - key;
        cpu::SoftmaxGradient row{};
        row.s = block.s.row<float>(r) + first, row.dp = block.dp.row<float>(r) + first;
        row.n = end - first;
        row.scale = static_cast<float>(a.scale), row.softcap = static_cast<float>(a.softcap);
        if (narrow) {
            row.p_bf16 = block.p.row<std::uint16_t>(r) + first;
            row.ds_bf16 = block.ds.row<std::uint16_t>(r) + first;
        }
        table.softmax_backward(row);
        for (const View& v : {block.p, block.ds}) {
            const std::size_t unit = size_of(v.dtype);
            std::byte* at = v.row_bytes(r);
            std::fill_n(at, static_cast<std::size_t>(first) * unit, std::byte{0});
            std::fill(at + static_cast<std::size_t>(end) * unit,
                      at + static_cast<std::size_t>(v.cols) * unit, std::byte{0});
            if (!narrow && dense::rounds(exec))
                table.round_bf16(v.row<float>(r), v.cols, v.row<float>(r));
        }
    }
}

// One head: dq, and its part of dk and dv, both [head_dim, T]: turned, because the GEMM is then
// faster by a fifth.
void run_head(const Exec& exec, const AttentionGradient& a, const Operands& in, std::int64_t head,
              const Scratch& scratch, const View& dk, const View& dv) {
    const std::int64_t tokens = a.q.rows, dim = a.head_dim;
    const std::int64_t kv = head * a.kv_heads / a.heads;
    for (std::int64_t d = 0; d < dim; ++d) {
        std::fill_n(dk.row<float>(d), tokens, 0.0f);
        std::fill_n(dv.row<float>(d), tokens, 0.0f);
    }
    for (std::int64_t query = 0; query < tokens; query += kBlock) {
        const std::int64_t rows = std::min(kBlock, tokens - query), key = first_key(a, query);
        const std::int64_t keys = query + rows - key;
        const auto of = [&](const View& v, std::int64_t h, std::int64_t first, std::int64_t n) {
            return v.slice_rows(first, n).slice_cols(h * dim, dim);
        };
        const auto block = [&](const View& v) { return View{v.data, v.dtype, rows, keys, keys}; };
        const Scratch b = {block(scratch.s), block(scratch.dp), block(scratch.p),
                           block(scratch.ds)};
        const View q = of(in.q, head, query, rows), dout = of(in.dout, head, query, rows);
        const View k = of(in.k, kv, key, keys), v = of(in.v, kv, key, keys);
        dense::multiply({q, false, k, true, b.s});
        dense::multiply({dout, false, v, true, b.dp});
        soften(exec, a, query, key, b);
        dense::multiply({dout, true, b.p, false, dv.slice_cols(key, keys), true});
        dense::multiply({q, true, b.ds, false, dk.slice_cols(key, keys), true});
        dense::multiply({b.ds, false, k, false, of(a.dq, head, query, rows)});
    }
}

// dk, dv = the sums of their heads' parts, [heads * head_dim, T].
void add_parts(const Exec& exec, const AttentionGradient& a, const View& dk, const View& dv) {
    constexpr std::int64_t kTokens = 64, kColumns = 16;
    const std::int64_t dim = a.head_dim, group = a.heads / a.kv_heads;
    const auto& table = kernels(exec.isa);
    const auto add = [&](const View& parts, const View& out, std::int64_t first, std::int64_t n) {
        for (std::int64_t column = 0; column < out.cols; column += kColumns) {
            const std::int64_t columns = std::min(kColumns, out.cols - column);
            float sums[kColumns][kTokens] = {};
            for (std::int64_t i = 0; i < columns; ++i) {
                const std::int64_t head = (column + i) / dim * group, d = (column + i) % dim;
                for (std::int64_t h = head; h < head + group; ++h)
                    table.add_scaled(parts.row<float>(h * dim + d) + first, 1.0f, n, sums[i]);
            }
            for (std::int64_t t = 0; t < n; ++t) {
                float* to = out.row<float>(first + t) + column;
                for (std::int64_t i = 0; i < columns; ++i) to[i] = sums[i][t];
            }
        }
    };
    exec.team->run(a.q.rows, kTokens, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t first = begin; first < end; first += kTokens) {
            const std::int64_t n = std::min(kTokens, end - first);
            add(dk, a.dk, first, n), add(dv, a.dv, first, n);
        }
    });
}

void run_cpu(const Exec& exec, const AttentionGradient& a) {
    const WorkspaceScope scope(*exec.workspace);
    const std::int64_t tokens = a.q.rows, dim = a.head_dim;
    const Operands in = {dense::operand(exec, a.q), dense::operand(exec, a.k),
                         dense::operand(exec, a.v), dense::operand(exec, a.dout)};
    const View dk = exec.workspace->take_view(DType::kF32, a.q.cols, tokens);
    const View dv = exec.workspace->take_view(DType::kF32, a.q.cols, tokens);
    const std::int64_t keys = keys_of_block(a, tokens), rows = std::min(kBlock, tokens);
    std::vector<Scratch> scratch;
    for (int i = 0; i < exec.team->threads(); ++i) {
        const auto take = [&](DType type) { return exec.workspace->take_view(type, rows, keys); };
        Scratch one = {take(DType::kF32), take(DType::kF32), {}, {}};
        const bool narrow = dense::held(exec) == DType::kBF16;
        one.p = narrow ? take(DType::kBF16) : one.s;
        one.ds = narrow ? take(DType::kBF16) : one.dp;
        scratch.push_back(one);
    }
    exec.team->run_indexed(a.heads, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
        for (std::int64_t h = begin; h < end; ++h) {
            run_head(exec, a, in, h, scratch[static_cast<std::size_t>(thread)],
                     dk.slice_rows(h * dim, dim), dv.slice_rows(h * dim, dim));
        }
    });
    add_parts(exec, a, dk, dv);
}

}  // namespace

void attention_backward(const Exec& exec, const AttentionGradient& a) {
    require(a.heads > 0 && a.kv_heads > 0 && a.heads % a.kv_heads == 0 && a.head_dim > 0,
            "attention_backward", "heads must be a multiple of kv_heads");
    const std::int64_t tokens = a.q.rows, dim = a.head_dim;
    for (const View& view : {a.q, a.dout, a.dq})
        require_view(exec, view, tokens, a.heads * dim, "attention_backward");
    for (const View& view : {a.k, a.v, a.dk, a.dv})
        require_view(exec, view, tokens, a.kv_heads * dim, "attention_backward");
    if (tokens == 0) return;
    if (is_cuda(exec)) return on_cuda::attention_backward(exec, a);
    if (exec.dry) {
        const WorkspaceScope scope(*exec.workspace);
        (void)exec.workspace->take(
            attention_backward_bytes(exec, tokens, a.heads, a.kv_heads, a.head_dim));
        return;
    }
    if (is_ref(exec)) return run_ref(exec, a);
    run_cpu(exec, a);
}

std::size_t attention_backward_bytes(const Exec& exec, std::int64_t tokens, int heads, int kv_heads,
                                     int head_dim) {
    if (is_ref(exec)) return 0;
    const auto up = [](std::int64_t elements, DType type) {
        return (static_cast<std::size_t>(elements) * size_of(type) + 63) & ~std::size_t{63};
    };
    if (is_cuda(exec)) return up(2 * tokens * heads, DType::kF32);
    const std::int64_t q = std::int64_t{heads} * head_dim, kv = std::int64_t{kv_heads} * head_dim;
    const std::int64_t block = std::min(kBlock, tokens) * tokens;
    std::size_t thread = 2 * up(block, DType::kF32);
    if (dense::held(exec) == DType::kBF16) thread += 2 * up(block, DType::kBF16);
    return 2 * dense::operand_bytes(exec, tokens, q) + 2 * dense::operand_bytes(exec, tokens, kv) +
           2 * up(tokens * q, DType::kF32) +
           static_cast<std::size_t>(exec.team->threads()) * thread;
}

}  // namespace thimble::ops
