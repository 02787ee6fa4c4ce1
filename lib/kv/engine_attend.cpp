// SPDX-License-Identifier: Apache-2.0
// One step of one layer: rotate, store, attend, and gather what policies want to know.
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kv/engine_state.h"

namespace thimble {
namespace {

constexpr std::int64_t kTile = ops::kAttentionTile;

std::span<std::int64_t> take_positions(const Exec& exec, std::int64_t count) {
    const auto n = static_cast<std::size_t>(count);
    return {reinterpret_cast<std::int64_t*>(exec.host().workspace->take(n * sizeof(std::int64_t))),
            n};
}

ops::Attention problem_of(const AttentionSpec& spec, View q, View out,
                          std::span<const ops::AttnSegment> segments,
                          std::span<const std::int64_t> positions) {
    return {.q = q,
            .out = out,
            .segments = segments,
            .q_positions = positions,
            .heads = spec.shape.heads,
            .kv_heads = spec.shape.kv_heads,
            .head_dim = spec.shape.head_dim,
            .scale = spec.scale,
            .softcap = spec.softcap};
}

}  // namespace

void KvEngine::attend(const Exec& exec, int layer, View q, View k, View v, View out) {
    State& s = *state_;
    const auto i = static_cast<std::size_t>(layer);
    if (!s.views.empty()) return s.attend_shared(exec, i, q, k, v, out);
    if (s.current == nullptr || i >= s.shape.plans.size() || q.rows != s.step_tokens)
        throw Error(Exit::kFailure, "KV", "attend outside of its step");
    // Rings hold what a tile of queries reads and no more, so they are filled tile by tile.
    const bool single = !s.current->in_prompt && s.shape.row_by_row(i);
    const std::int64_t start = s.step_first, end = start + q.rows;
    for (std::int64_t first = start; first < end;) {
        const std::int64_t last = single ? first + 1
                                  : s.shape.plans[i].ring()
                                      ? std::min(end, (first / kTile + 1) * kTile)
                                      : end;
        const std::int64_t row = first - start, count = last - first;
        s.attend_piece(exec, i, first, q.slice_rows(row, count), k.slice_rows(row, count),
                       v.slice_rows(row, count), out.slice_rows(row, count));
        first = last;
    }
}

// Rotates, stores and attends rows of consecutive positions from `first` on.
void KvEngine::State::attend_piece(const Exec& exec, std::size_t layer, std::int64_t first, View q,
                                   View k, View v, View out) {
    const WorkspaceScope scope(*exec.workspace), host_scope(*exec.host().workspace);
    const AttentionSpec& spec = shape.specs[layer];
    const KvBand& band = shape.plans[layer].band;
    Sequence& sequence = *current;
    LayerState& state = *sequence.layers[layer];
    const std::int64_t end = first + q.rows;
    const std::span<std::int64_t> positions = take_positions(exec, q.rows);
    std::iota(positions.begin(), positions.end(), first);
    const LayerStatistics statistics(shape.chain, spec, static_cast<int>(layer));
    const bool governed = shape.governs(layer);

    // Rows at sinks + window and beyond read two places of the cache.
    const std::int64_t dense =
        band.sinks > 0 ? std::clamp(band.sinks + band.window - first, std::int64_t{0}, q.rows)
                       : q.rows;
    View raw_q;
    if (dense < q.rows && shape.chain.needs().positions == PositionMode::kCompact) {
        raw_q = exec.workspace->take_view(q.dtype, q.rows - dense, q.cols);
        ops::copy(exec, q.slice_rows(dense, raw_q.rows), raw_q);
    }
    if (governed && sequence.in_prompt) statistics.note_raw(exec, state, first, q);
    ops::rope(exec, spec.rope, spec.shape.head_dim, positions, q);
    ops::rope(exec, spec.rope, spec.shape.head_dim, positions, k);
    state.store.reserve(first, q.rows);
    const std::int64_t slots = governed ? state.store.slots(0) : 0;
    state.store.write(exec, first, k, v);
    if (governed) statistics.describe_blocks(exec, state, slots);
    if (governed && sequence.in_prompt) statistics.note_rotated(state, q);

    if (dense > 0) {
        attend_all(exec, layer, positions.first(static_cast<std::size_t>(dense)),
                   q.slice_rows(0, dense), out.slice_rows(0, dense));
    }
    if (dense < q.rows) {
        attend_band(exec, layer, first + dense, q.slice_rows(dense, end - first - dense), raw_q,
                    out.slice_rows(dense, end - first - dense));
    }
    if (!governed) return;
    statistics.note_rows(exec, state, problem_of(spec, q, out, {}, positions),
                         {.prompt = sequence.in_prompt,
                          .repeat_first = sequence.repeat_first,
                          .repeat_end = sequence.repeat_end,
                          .repeat_prompt = sequence.repeat_prompt});
    if (watcher && !sequence.in_prompt)
        show_rows(exec, layer, problem_of(spec, q, out, {}, positions));
    if (sequence.in_prompt || !shape.chain.needs().edits_decode) return;
    const auto tokens = layer_tokens(sequence, end);
    edit_layer(exec, sequence, layer, end, tokens[layer]);
}

void KvEngine::State::show_rows(const Exec& exec, std::size_t layer,
                                const ops::Attention& problem) const {
    LayerState& state = *current->layers[layer];
    const std::int64_t seen = problem.q_positions.back() + 1;
    const LayerView view(exec, shape.model, shape.specs[layer], static_cast<int>(layer), state,
                         seen, false, *state.window.get_allocator().resource());
    for (int head = 0; head < problem.kv_heads; ++head) {
        const auto keys = view.positions(head);
        LayerStore::Segments segments;
        state.store.add_slots(segments, head, 0, std::ssize(keys));
        ops::Attention part = problem;
        part.segments = segments;
        const std::int64_t group = problem.heads / problem.kv_heads, n = std::ssize(keys);
        std::pmr::vector<float> floats(static_cast<std::size_t>(problem.q.rows * group * n),
                                       &view.memory());
        const View logits = {floats.data(), DType::kF32, problem.q.rows * group, n, n};
        ops::attention_logits(exec, part, head, logits);
        watcher(view, {.layer = static_cast<int>(layer),
                       .kv_head = head,
                       .group = group,
                       .positions = problem.q_positions,
                       .keys = keys,
                       .logits = logits,
                       .prompt_tokens = state.prompt_tokens});
    }
}

void KvEngine::State::attend_all(const Exec& exec, std::size_t layer,
                                 std::span<const std::int64_t> positions, View q, View out) {
    const AttentionSpec& spec = shape.specs[layer];
    const KvBand& band = shape.plans[layer].band;
    const std::int64_t first = positions.front(), end = positions.back() + 1;
    const std::int64_t window = band.sinks > 0 ? 0 : band.window;
    const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(first - window + 1, 0) : 0;
    LayerStore::Segments keys;
    if (!current->in_prompt && shape.governs(layer) && shape.chain.of(KvPolicy::kBlocks) != nullptr)
        keys = choose_blocks(exec, layer, end, q);
    if (keys.empty()) keys = current->layers[layer]->store.segments(oldest, end);
    ops::Attention problem = problem_of(spec, q, out, keys, positions);
    problem.window = window;
    ops::attention(exec, problem);
}

// Rows that read the sinks and a window. With compact positions a row's distance to a window key is
// what it was, as both move together; only its distance to the sinks differs. So the row meets the
// sinks with a second copy of q, rotated as if it stood at the end of the budget, and the two parts
// are merged.
void KvEngine::State::attend_band(const Exec& exec, std::size_t layer, std::int64_t first, View q,
                                  View raw_q, View out) const {
    const AttentionSpec& spec = shape.specs[layer];
    const KvBand& band = shape.plans[layer].band;
    const LayerStore& store = current->layers[layer]->store;
    const std::span<std::int64_t> positions = take_positions(exec, q.rows);
    std::iota(positions.begin(), positions.end(), first);
    const LayerStore::Segments window = store.segments(first - band.window + 1, first + q.rows);

    ops::Attention problem = problem_of(spec, q, out, window, positions);
    problem.window = band.window;
    const auto new_state = [&](View o) {
        return ops::AttnState{.o = o,
                              .max = exec.workspace->take_view(q.dtype, q.rows, spec.shape.heads),
                              .sum = exec.workspace->take_view(q.dtype, q.rows, spec.shape.heads)};
    };
    const ops::AttnState recent = new_state(exec.workspace->take_view(q.dtype, q.rows, q.cols));
    ops::attention_state(exec, problem, recent);

    if (shape.chain.needs().positions == PositionMode::kCompact) {
        std::fill(positions.begin(), positions.end(), band.sinks + band.window - 1);
        ops::rope(exec, spec.rope, spec.shape.head_dim, positions, raw_q);
        problem.q = raw_q;
    }
    const LayerStore::Segments sinks = store.sinks();
    problem.segments = sinks;
    problem.window = 0;
    const ops::AttnState all = new_state(out);
    ops::attention_state(exec, problem, all);
    ops::merge(exec, recent, all, spec.shape.head_dim);
}

// Empty: everything is read.
LayerStore::Segments KvEngine::State::choose_blocks(const Exec& exec, std::size_t layer,
                                                    std::int64_t seen, View q) const {
    const KvPolicy& reader = *shape.chain.of(KvPolicy::kBlocks);
    const KvPolicy::Reading reading =
        reader.reading(shape.model, static_cast<int>(layer), seen, shape.token_bytes);
    LayerStore::Segments out;
    if (reading.all) return out;
    const AttentionLayer& attention = shape.specs[layer].shape;
    const LayerState& state = *current->layers[layer];
    const std::int64_t block = shape.chain.needs().block_tokens;
    const std::int64_t group = attention.heads / attention.kv_heads, dim = attention.head_dim;
    std::vector<float> queries(static_cast<std::size_t>(group * dim));
    for (int head = 0; head < attention.kv_heads; ++head) {
        const std::int64_t slots = state.store.slots(head);
        const std::int64_t blocks = (slots + block - 1) / block;
        if (reading.tokens >= slots) {
            state.store.add_slots(out, head, 0, slots);
            continue;
        }
        for (std::size_t i = 0; i < queries.size(); ++i) {
            const auto at = static_cast<std::int64_t>(i) + head * group * dim;
            queries[i] = exec.dtype() == DType::kF64 ? static_cast<float>(q.row<double>(0)[at])
                                                     : q.row<float>(0)[at];
        }
        std::vector<float> rating(static_cast<std::size_t>(blocks));
        reader.rate({queries.data(), DType::kF32, group, dim, dim}, state.blocks_of(head), rating);
        // Blocks stand for slots here, so that one rule ranks both: the newest is always read.
        std::vector<std::int32_t> places(static_cast<std::size_t>(blocks));
        std::iota(places.begin(), places.end(), 0);
        const KvPolicy::Protected protect = {
            .sinks = (reading.sinks + block - 1) / block,
            .recent = std::max<std::int64_t>((reading.recent + block - 1) / block, 1)};
        const auto chosen = keep_best(places, rating, protect, blocks,
                                      std::max<std::int64_t>(reading.tokens / block, 1));
        for (std::size_t i = 0; i < chosen.size();) {  // runs of neighbours in one piece
            std::size_t next = i + 1;
            while (next < chosen.size() && chosen[next] == chosen[next - 1] + 1) ++next;
            const std::int64_t end = std::min((chosen[next - 1] + 1) * block, slots);
            // Tile by tile, so that it does not matter which of them forks share.
            for (std::int64_t begin = chosen[i] * block, stop = 0; begin < end; begin = stop) {
                stop = std::min(end, (begin / kTile + 1) * kTile);
                state.store.add_slots(out, head, begin, stop - begin);
            }
            i = next;
        }
    }
    return out;
}

}  // namespace thimble
