// SPDX-License-Identifier: Apache-2.0
// Attention with queries on the device: segments in device memory by the kernels, split by split;
// segments that lie in host memory by the CPU meanwhile; then all states are merged. Merging is
// exact, so where a key lies changes rounding only.
#include <algorithm>
#include <optional>
#include <vector>

#include "ops/cuda_matrix.h"
#include "ops/on_cuda.h"

namespace thimble::ops::on_cuda {
namespace {

// Most tokens whose states are held at once.
constexpr std::int64_t kTokensAtOnce = 64;

// States of one piece of the KV after the other: o [splits, T, heads * dim], max, sum [splits, T,
// heads].
struct States {
    std::int64_t splits = 0;
    View o, max, sum;
    [[nodiscard]] float* o_of(std::int64_t split) const { return o.row<float>(split); }
    [[nodiscard]] float* max_of(std::int64_t split) const { return max.row<float>(split); }
    [[nodiscard]] float* sum_of(std::int64_t split) const { return sum.row<float>(split); }
};

States take_states(const Exec& exec, std::int64_t splits, const Attention& a) {
    const std::int64_t rows = a.q.rows * a.heads;
    Workspace& w = *exec.workspace;
    return {splits, w.take_view(DType::kF32, splits, rows * a.head_dim),
            w.take_view(DType::kF32, splits, rows), w.take_view(DType::kF32, splits, rows)};
}

cuda::KvRows kv_rows(const AttnRows& rows) {
    return {rows.data, rows.layout, rows.token_bytes, rows.head_bytes};
}

void run_segment(const Exec& exec, const Attention& a, const AttnSegment& s,
                 const std::int64_t* q_positions, const States& states, std::int64_t split) {
    launch(
        exec, cuda::supports_attention_split, cuda::attention_split,
        cuda::AttentionSplit{
            .q = floats(a.q),
            .tokens = a.q.rows,
            .q_stride = a.q.stride,
            .q_positions = q_positions,
            .heads = a.heads,
            .kv_heads = a.kv_heads,
            .head_dim = a.head_dim,
            .k = kv_rows(s.k),
            .v = kv_rows(s.v),
            .slots = s.slots,
            .positions = s.positions == nullptr
                             ? nullptr
                             : exec.cuda->upload(std::span<const std::int64_t>(
                                   std::vector<std::int64_t>(s.positions, s.positions + s.slots))),
            .first_position = s.first_position,
            .scale = static_cast<float>(a.scale),
            .softcap = static_cast<float>(a.softcap),
            .window = a.window,
            .sinks = a.sinks,
            .o = states.o_of(split),
            .max = states.max_of(split),
            .sum = states.sum_of(split)});
}

void merge_states(const Exec& exec, const Attention& a, const States& states,
                  const AttnState* state) {
    const View& out = state != nullptr ? state->o : a.out;
    launch(exec, cuda::supports_attention_merge, cuda::attention_merge,
           cuda::AttentionMerge{.o = states.o_of(0),
                                .max = states.max_of(0),
                                .sum = states.sum_of(0),
                                .splits = states.splits,
                                .tokens = a.q.rows,
                                .heads = a.heads,
                                .head_dim = a.head_dim,
                                .out = floats(out),
                                .out_stride = out.stride,
                                .out_max = state != nullptr ? floats(state->max) : nullptr,
                                .out_sum = state != nullptr ? floats(state->sum) : nullptr});
}

// The segments in host memory, on the host.
void run_host(const Exec& exec, const Attention& a, View host_q,
              std::span<const AttnSegment> segments, const States& states, std::int64_t split) {
    const Exec& host = exec.host();
    Workspace& w = *host.workspace;
    const View o = w.take_view(DType::kF32, a.q.rows, a.q.cols);
    const View max = w.take_view(DType::kF32, a.q.rows, a.heads),
               sum = w.take_view(DType::kF32, a.q.rows, a.heads);
    Attention problem = a;
    problem.q = host_q, problem.segments = segments;
    attention_state(host, problem, {o, max, sum});
    const auto rows = static_cast<std::size_t>(a.q.rows * a.heads) * sizeof(float);
    on_device([&] {
        cuda::Stream& stream = exec.cuda->compute();
        cuda::copy_to_device(stream, states.o_of(split), o.data,
                             rows * static_cast<std::size_t>(a.head_dim));
        cuda::copy_to_device(stream, states.max_of(split), max.data, rows);
        cuda::copy_to_device(stream, states.sum_of(split), sum.data, rows);
    });
}

void run_some(const Exec& exec, const Attention& a, const AttnState* state) {
    const WorkspaceScope scope(*exec.workspace);
    std::optional<WorkspaceScope> host_scope;
    std::vector<AttnSegment> on_host;
    std::int64_t splits = 0;
    for (const AttnSegment& s : a.segments) {
        if (s.on_host) {
            on_host.push_back(s);
        } else {
            splits += cuda::splits_of(s.slots);
        }
    }
    const std::int64_t host_split = splits;
    const States states = take_states(exec, splits + (on_host.empty() ? 0 : 1), a);
    View host_q;
    if (!on_host.empty()) {
        host_scope.emplace(*exec.host().workspace);
        host_q = exec.host().workspace->take_view(DType::kF32, a.q.rows, a.q.cols);
        copy_to_host(exec, a.q, host_q);
    }
    const std::int64_t* positions = exec.cuda->upload(a.q_positions);
    std::int64_t split = 0;
    for (const AttnSegment& s : a.segments) {
        if (s.on_host || s.slots == 0) continue;
        run_segment(exec, a, s, positions, states, split);
        split += cuda::splits_of(s.slots);
    }
    if (!on_host.empty()) run_host(exec, a, host_q, on_host, states, host_split);
    merge_states(exec, a, states, state);
}

}  // namespace

void attention(const Exec& exec, const Attention& problem, const AttnState* state) {
    for (std::int64_t first = 0; first < problem.q.rows; first += kTokensAtOnce) {
        const std::int64_t count = std::min(kTokensAtOnce, problem.q.rows - first);
        Attention part = problem;
        part.q = problem.q.slice_rows(first, count);
        part.q_positions = problem.q_positions.subspan(static_cast<std::size_t>(first),
                                                       static_cast<std::size_t>(count));
        if (state == nullptr) {
            part.out = problem.out.slice_rows(first, count);
            run_some(exec, part, nullptr);
        } else {
            const AttnState rows{state->o.slice_rows(first, count),
                                 state->max.slice_rows(first, count),
                                 state->sum.slice_rows(first, count)};
            run_some(exec, part, &rows);
        }
    }
}

std::size_t attention_workspace_bytes(std::int64_t tokens, int heads, int head_dim,
                                      std::int64_t slots) {
    const std::int64_t rows = std::min(tokens, kTokensAtOnce) * heads;
    // A cache may be cut into three segments, and the host's share is one more state.
    const std::int64_t splits = cuda::splits_of(slots) + 3;
    const auto bytes = [](std::int64_t n) {
        return (static_cast<std::size_t>(n) * sizeof(float) + 63) & ~std::size_t{63};
    };
    return bytes(splits * rows * head_dim) + 2 * bytes(splits * rows);
}

void merge(const Exec& exec, const AttnState& part, AttnState into, int head_dim) {
    const WorkspaceScope scope(*exec.workspace);
    Workspace& w = *exec.workspace;
    const View o = w.take_view(DType::kF32, 2 * into.o.rows, into.o.cols);
    const View max = w.take_view(DType::kF32, 2 * into.max.rows, into.max.cols);
    const View sum = w.take_view(DType::kF32, 2 * into.max.rows, into.max.cols);
    const auto both = [&](View first, View second, View to) {
        copy(exec, first, to.slice_rows(0, first.rows));
        copy(exec, second, to.slice_rows(first.rows, second.rows));
    };
    both(into.o, part.o, o);
    both(into.max, part.max, max);
    both(into.sum, part.sum, sum);
    launch(exec, cuda::supports_attention_merge, cuda::attention_merge,
           cuda::AttentionMerge{.o = floats(o),
                                .max = floats(max),
                                .sum = floats(sum),
                                .splits = 2,
                                .tokens = into.o.rows,
                                .heads = static_cast<int>(into.max.cols),
                                .head_dim = head_dim,
                                .out = floats(into.o),
                                .out_stride = into.o.stride,
                                .out_max = floats(into.max),
                                .out_sum = floats(into.sum)});
}

}  // namespace thimble::ops::on_cuda

std::size_t thimble::ops::host_attention_bytes(std::int64_t tokens, int heads, int head_dim,
                                               std::int64_t slots) {
    const std::int64_t count = std::min(tokens, on_cuda::kTokensAtOnce), rows = count * heads;
    const auto bytes = [](std::int64_t n) {
        return (static_cast<std::size_t>(n) * sizeof(float) + 63) & ~std::size_t{63};
    };
    return 2 * bytes(rows * head_dim) + 2 * bytes(rows) +
           ops::attention_workspace_bytes(count, heads, head_dim, slots, Device::kCpu);
}
