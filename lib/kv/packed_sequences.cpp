// SPDX-License-Identifier: Apache-2.0
#include "kv/packed_sequences.h"

#include <algorithm>

#include "core/error.h"
#include "ops/gradients.h"

namespace thimble {
namespace {

// Rows of one document as the keys or values of a segment.
ops::AttnRows rows_of(View x, int head_dim) {
    const std::size_t element = size_of(x.dtype);
    return {.data = static_cast<const std::byte*>(x.data),
            .f64 = x.dtype == DType::kF64,
            .layout = LayoutId::k_f32,
            .token_bytes = static_cast<std::size_t>(x.stride) * element,
            .head_bytes = static_cast<std::size_t>(head_dim) * element};
}

}  // namespace

void PackedSequences::set_documents(std::span<const std::int64_t> lengths) {
    lengths_.assign(lengths.begin(), lengths.end());
    positions_.clear(), back_.clear();
    for (const std::int64_t length : lengths) {
        for (std::int64_t p = 0; p < length; ++p) positions_.push_back(p), back_.push_back(-p);
    }
}

void PackedSequences::rotate_by(const Exec& exec, int layer,
                                std::span<const std::int64_t> positions, View q, View k) const {
    const AttentionSpec& spec = layers_[static_cast<std::size_t>(layer)];
    if (q.rows != tokens()) throw Error(Exit::kFailure, "attention", "rows of no document");
    ops::rope(exec, spec.rope, spec.shape.head_dim, positions, q);
    ops::rope(exec, spec.rope, spec.shape.head_dim, positions, k);
}

void PackedSequences::rotate(const Exec& exec, int layer, View q, View k) const {
    rotate_by(exec, layer, positions_, q, k);
}

void PackedSequences::attend(const Exec& exec, int layer, View q, View k, View v, View out) {
    rotate(exec, layer, q, k);
    const AttentionSpec& spec = layers_[static_cast<std::size_t>(layer)];
    std::int64_t first = 0;
    for (const std::int64_t count : lengths_) {
        const ops::AttnSegment keys{.k = rows_of(k.slice_rows(first, count), spec.shape.head_dim),
                                    .v = rows_of(v.slice_rows(first, count), spec.shape.head_dim),
                                    .slots = count};
        const auto positions = std::span(positions_)
                                   .subspan(static_cast<std::size_t>(first))
                                   .first(static_cast<std::size_t>(count));
        ops::attention(exec, {.q = q.slice_rows(first, count),
                              .out = out.slice_rows(first, count),
                              .segments = {&keys, 1},
                              .q_positions = positions,
                              .heads = spec.shape.heads,
                              .kv_heads = spec.shape.kv_heads,
                              .head_dim = spec.shape.head_dim,
                              .scale = spec.scale,
                              .window = spec.shape.window,
                              .softcap = spec.softcap});
        first += count;
    }
}

void PackedSequences::attend_backward(const Exec& exec, int layer, View q, View k, View v,
                                      View dout, View dq, View dk, View dv) const {
    const AttentionSpec& spec = layers_[static_cast<std::size_t>(layer)];
    std::int64_t first = 0;
    for (const std::int64_t count : lengths_) {
        const auto rows = [&](View x) { return x.slice_rows(first, count); };
        ops::attention_backward(exec, {.q = rows(q),
                                       .k = rows(k),
                                       .v = rows(v),
                                       .dout = rows(dout),
                                       .dq = rows(dq),
                                       .dk = rows(dk),
                                       .dv = rows(dv),
                                       .heads = spec.shape.heads,
                                       .kv_heads = spec.shape.kv_heads,
                                       .head_dim = spec.shape.head_dim,
                                       .scale = spec.scale,
                                       .window = spec.shape.window,
                                       .softcap = spec.softcap});
        first += count;
    }
    // A rotation's gradient is the rotation back.
    rotate_by(exec, layer, back_, dq, dk);
}

std::size_t PackedSequences::attend_bytes(const std::vector<AttentionSpec>& layers,
                                          const Exec& exec, std::int64_t longest) {
    std::size_t most = 0;
    for (const AttentionSpec& spec : layers) {
        // A document of few tokens keeps partial states, one of many does not.
        for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{4}, longest}) {
            most = std::max(
                most, ops::attention_workspace_bytes(std::min(tokens, longest), spec.shape.heads,
                                                     spec.shape.head_dim, longest, exec.device));
        }
    }
    return most;
}

std::size_t PackedSequences::backward_bytes(const std::vector<AttentionSpec>& layers,
                                            const Exec& exec, std::int64_t longest) {
    std::size_t most = 0;
    for (const AttentionSpec& spec : layers) {
        most =
            std::max(most, ops::attention_backward_bytes(exec, longest, spec.shape.heads,
                                                         spec.shape.kv_heads, spec.shape.head_dim));
    }
    return most;
}

}  // namespace thimble
