// SPDX-License-Identifier: Apache-2.0
// Steps of sequences that see one another. Keys are rotated by their place in their own sequence;
// a query is rotated anew for each sequence that it reads, back by where that one stands in its
// view, which comes to the same: R(a) R(b) = R(a + b).
#include <algorithm>

#include "core/error.h"
#include "kv/engine_state.h"

namespace thimble {

void KvEngine::State::check_shared() const {
    const bool on_device = std::any_of(shape.placement.layers.begin(), shape.placement.layers.end(),
                                       [](const KvPlacement::Layer& l) { return l.on_device; });
    if (on_device)
        throw Error(Exit::kUsage, "--device", "shared sequences stay on the CPU", "--device cpu");
    if (shape.chain.edits() || shape.chain.of(KvPolicy::kBlocks) != nullptr ||
        shape.chain.of(KvPolicy::kBand) != nullptr) {
        throw Error(Exit::kUsage, "--kv-policy", "sequences that see one another keep every key",
                    "use full");
    }
    if (!shape.recurrent.empty())
        throw Error(Exit::kFailure, "KV", "a recurrent layer's state has read one text only");
}

void KvEngine::begin_shared_step(std::vector<std::vector<SeqId>> views) {
    State& s = *state_;
    s.check_shared();
    std::vector<std::vector<State::Sequence*>> pointers;
    for (const std::vector<SeqId>& view : views) {
        auto& list = pointers.emplace_back();
        std::int64_t length = 1;
        for (const SeqId seq : view) {
            list.push_back(&s.at(seq));
            length += list.back()->tokens;
        }
        s.check_room(length);
    }
    for (const auto& view : pointers) {
        State::Sequence& own = *view.back();
        own.check();
        for (const auto& layer : own.layers) layer->store.reserve(own.tokens, 1);
        own.written = std::max(own.written, own.tokens + 1);
    }
    s.views = std::move(pointers);
}

void KvEngine::State::attend_shared(const Exec& exec, std::size_t layer, View q, View k, View v,
                                    View out) {
    if (q.rows != std::ssize(views))
        throw Error(Exit::kFailure, "KV", "a shared step has one row for each of its sequences");
    const AttentionSpec& spec = shape.specs[layer];
    for (std::int64_t row = 0; row < q.rows; ++row) {
        const Sequence& own = *views[static_cast<std::size_t>(row)].back();
        const View key = k.slice_rows(row, 1);
        ops::rope(exec, spec.rope, spec.shape.head_dim, {&own.tokens, 1}, key);
        own.layers[layer]->store.write(exec, own.tokens, key, v.slice_rows(row, 1));
    }
    for (std::int64_t row = 0; row < q.rows; ++row)
        attend_view(exec, layer, views[static_cast<std::size_t>(row)], q.slice_rows(row, 1),
                    out.slice_rows(row, 1));
}

void KvEngine::State::attend_view(const Exec& exec, std::size_t layer,
                                  const std::vector<Sequence*>& view, View q, View out) const {
    const WorkspaceScope scope(*exec.workspace);
    const AttentionSpec& spec = shape.specs[layer];
    // Tokens of a sequence that writes in this step, too, its new one included.
    const auto length = [&](const Sequence* sequence) {
        const bool writes = std::any_of(views.begin(), views.end(), [&](const auto& other) {
            return other.back() == sequence;
        });
        return sequence->tokens + (writes ? 1 : 0);
    };
    std::int64_t total = 0;
    for (const Sequence* sequence : view) total += length(sequence);
    const auto new_state = [&](View o) {
        return ops::AttnState{.o = o,
                              .max = exec.workspace->take_view(q.dtype, 1, spec.shape.heads),
                              .sum = exec.workspace->take_view(q.dtype, 1, spec.shape.heads)};
    };
    const View turned = exec.workspace->take_view(q.dtype, 1, q.cols);
    const ops::AttnState all = new_state(out);
    const ops::AttnState part = new_state(exec.workspace->take_view(q.dtype, 1, q.cols));
    const std::int64_t window = shape.plans[layer].band.window;
    std::int64_t offset = 0;
    bool first = true;
    for (const Sequence* sequence : view) {
        const std::int64_t count = length(sequence), position = total - 1 - offset;
        offset += count;
        const std::int64_t oldest =
            window > 0 ? std::max<std::int64_t>(position - window + 1, 0) : 0;
        if (oldest >= count) continue;
        ops::copy(exec, q, turned);
        ops::rope(exec, spec.rope, spec.shape.head_dim, {&position, 1}, turned);
        const LayerStore::Segments keys = sequence->layers[layer]->store.segments(oldest, count);
        const ops::AttnState& into = first ? all : part;
        ops::attention_state(exec,
                             {.q = turned,
                              .out = {},
                              .segments = keys,
                              .q_positions = {&position, 1},
                              .heads = spec.shape.heads,
                              .kv_heads = spec.shape.kv_heads,
                              .head_dim = spec.shape.head_dim,
                              .scale = spec.scale,
                              .window = window,
                              .softcap = spec.softcap},
                             into);
        if (!first) ops::merge(exec, part, all, spec.shape.head_dim);
        first = false;
    }
}

void KvEngine::move_tokens(const Exec& exec, SeqId from, SeqId to) {
    State& s = *state_;
    State::Sequence &source = s.at(from), &target = s.at(to);
    const std::int64_t count = source.tokens;
    s.check_room(target.tokens + count);
    for (std::size_t layer = 0; layer < source.layers.size(); ++layer) {
        const AttentionSpec& spec = s.shape.specs[layer];
        const LayerPlan& plan = s.shape.plans[layer];
        LayerStore& store = target.layers[layer]->store;
        const std::int64_t dim = spec.shape.head_dim, width = spec.shape.kv_heads * dim;
        // A ring has lost what no later query could read.
        const std::int64_t oldest =
            plan.ring() ? std::max<std::int64_t>(count - plan.slots + ops::kAttentionTile, 0) : 0;
        store.reserve(target.tokens, count);
        std::vector<float> rows(static_cast<std::size_t>(2 * width));
        std::vector<double> wide(rows.size());
        for (std::int64_t i = oldest; i < count; ++i) {
            for (int head = 0; head < spec.shape.kv_heads; ++head) {
                const View key = {rows.data() + head * dim, DType::kF32, 1, dim, dim};
                const View value = {rows.data() + width + head * dim, DType::kF32, 1, dim, dim};
                source.layers[layer]->store.read_position(exec, head, i, key, value);
            }
            View k = {rows.data(), DType::kF32, 1, width, width};
            View v = {rows.data() + width, DType::kF32, 1, width, width};
            if (exec.dtype() == DType::kF64) {
                wide.assign(rows.begin(), rows.end());
                k.data = wide.data(), k.dtype = DType::kF64;
                v.data = wide.data() + width, v.dtype = DType::kF64;
            }
            ops::rope(exec, spec.rope, spec.shape.head_dim, {&target.tokens, 1}, k);
            store.write(exec, target.tokens + i, k, v);
        }
    }
    target.tokens += count;
    target.written = std::max(target.written, target.tokens);
    truncate(from, 0);
}

}  // namespace thimble
