// SPDX-License-Identifier: Apache-2.0
// Where a prompt ends and what its policy then drops.
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kv/engine_state.h"
#include "kv/slot_list.h"

namespace thimble {

void KvEngine::State::apply(const Exec& exec, Sequence& sequence, std::size_t layer,
                            std::int64_t seen, const KvEdit& edit) {
    if (edit.heads.empty()) return;
    LayerState& state = *sequence.layers[layer];
    for (std::size_t head = 0; head < state.sums.size(); ++head) {
        auto& sums = state.sums[head];
        if (sums.empty()) continue;
        // No rows may have been seen since these slots were written.
        const auto slots = static_cast<std::size_t>(state.store.slots(static_cast<int>(head)));
        make_room(sums, slots);
        sums.resize(slots);
    }
    const SlotOrder order = state.store.apply(exec, edit, !sequence.in_prompt);
    for (std::size_t head = 0; head < order.size(); ++head) {
        if (!state.sums[head].empty()) reorder(state.sums[head], order[head]);
    }
    state.floor = seen;
    LayerStatistics(shape.chain, shape.specs[layer], static_cast<int>(layer))
        .describe_blocks(exec, state, 0);
}

void KvEngine::State::edit_layer(const Exec& exec, Sequence& sequence, std::size_t layer,
                                 std::int64_t seen, std::int64_t tokens) {
    KvEdit edit;
    {
        const LayerView view(exec, shape.model, shape.specs[layer], static_cast<int>(layer),
                             *sequence.layers[layer], seen, sequence.in_prompt, memory);
        edit = shape.chain.edit(view, shape.chain.score(view), tokens);
    }
    apply(exec, sequence, layer, seen, edit);
}

// One budget for all heads of all layers: the best scores anywhere are kept.
void KvEngine::State::edit_together(const Exec& exec, Sequence& sequence) {
    struct Layer {
        std::size_t index;
        std::vector<std::pmr::vector<std::int32_t>> positions;
        KvScores scores;
    };
    std::vector<Layer> layers;
    std::pmr::vector<float> all(&memory);
    const KvPolicy& scorer = *shape.chain.of(KvPolicy::kScore);
    std::int64_t tokens = 0, heads = 0;
    for (std::size_t i = 0; i < shape.specs.size(); ++i) {
        if (!shape.governs(i)) continue;
        const LayerView view(exec, shape.model, shape.specs[i], static_cast<int>(i),
                             *sequence.layers[i], sequence.tokens, sequence.in_prompt, memory);
        Layer layer{i, {}, shape.chain.score(view)};
        for (int head = 0; head < shape.specs[i].shape.kv_heads; ++head) {
            layer.positions.push_back(sequence.layers[i]->store.positions(head));
            const auto& scores = layer.scores.heads[static_cast<std::size_t>(head)];
            all.insert(all.end(), scores.begin(), scores.end());
            ++heads;
        }
        layers.push_back(std::move(layer));
    }
    const KvBudget& budget = sequence.budget ? *sequence.budget : *scorer.budget();
    tokens = budget.tokens(sequence.tokens, shape.token_bytes);
    const std::int64_t kept = std::min(tokens * heads, std::ssize(all));
    if (kept == std::ssize(all)) return;
    std::nth_element(all.begin(), all.begin() + (kept - 1), all.end(), std::greater<>());
    const float least = all[static_cast<std::size_t>(kept - 1)];
    // Equal scores at the border: as many as there is room for, in the order of layers and heads.
    std::int64_t ties =
        kept - std::count_if(all.begin(), all.begin() + kept, [&](float x) { return x > least; });
    for (const Layer& layer : layers) {
        KvEdit edit;
        for (std::size_t head = 0; head < layer.positions.size(); ++head) {
            const auto& scores = layer.scores.heads[head];
            auto& keep = edit.heads.emplace_back().keep;
            for (std::size_t slot = 0; slot < scores.size(); ++slot) {
                const bool tie = scores[slot] == least && ties > 0;
                if (tie) --ties;
                if (tie || scores[slot] > least) keep.push_back(static_cast<std::int32_t>(slot));
            }
        }
        apply(exec, sequence, layer.index, sequence.tokens, edit);
    }
}

void KvEngine::begin_prompt(SeqId seq) {
    State::Sequence& sequence = state_->at(seq);
    sequence.check();
    if (sequence.in_prompt) return;
    sequence.in_prompt = true;
    sequence.edited.assign(sequence.layers.size(), false);
    for (const auto& layer : sequence.layers) layer->end_prompt();
}

void KvEngine::set_budget(SeqId seq, const KvBudget& budget) { state_->at(seq).budget = budget; }

std::int64_t KvEngine::repeat_tokens() const noexcept {
    return state_->shape.chain.needs().repeat_tokens;
}

void KvEngine::begin_repeat(SeqId probe, std::int64_t first, std::int64_t end) {
    State::Sequence& sequence = state_->at(probe);
    sequence.repeat_first = first, sequence.repeat_end = end;
    sequence.repeat_prompt = sequence.tokens;
}

void KvEngine::end_repeat(SeqId seq, SeqId probe) {
    State::Sequence &to = state_->at(seq), &from = state_->at(probe);
    for (std::size_t i = 0; i < to.layers.size(); ++i) {
        for (std::size_t head = 0; head < to.layers[i]->sums.size(); ++head) {
            auto &sums = to.layers[i]->sums[head], &learnt = from.layers[i]->sums[head];
            const auto slots =
                static_cast<std::size_t>(to.layers[i]->store.slots(static_cast<int>(head)));
            if (learnt.size() < slots) continue;
            make_room(sums, slots);
            sums.assign(learnt.begin(), learnt.begin() + static_cast<std::ptrdiff_t>(slots));
        }
    }
    close(probe);
}

int KvEngine::filter_layer() const {
    const KvPolicy* filter = state_->shape.chain.of(KvPolicy::kFilter);
    return filter == nullptr ? -1 : filter->filter_layer(state_->shape.model);
}

std::vector<std::int32_t> KvEngine::filter(const Exec& exec, SeqId seq, std::int64_t tokens) {
    State& s = *state_;
    const KvPolicy& filter = *s.shape.chain.of(KvPolicy::kFilter);
    const auto layer = static_cast<std::size_t>(filter.filter_layer(s.shape.model));
    State::Sequence& sequence = s.at(seq);
    const LayerView view(exec, s.shape.model, s.shape.specs[layer], static_cast<int>(layer),
                         *sequence.layers[layer], tokens, true, s.memory);
    std::pmr::vector<float> scores(static_cast<std::size_t>(tokens), &s.memory);
    filter.rate_prompt(view, scores);
    const KvBudget& budget = sequence.budget ? *sequence.budget : *filter.filter_budget();
    return keep_best(view.positions(0), scores, filter.protects(tokens), tokens,
                     budget.tokens(tokens, s.shape.token_bytes));
}

void KvEngine::forget_layer(SeqId seq, int layer) {
    state_->at(seq).layers[static_cast<std::size_t>(layer)]->cut(0);
}

bool KvEngine::in_prompt(SeqId seq) const { return state_->at(seq).in_prompt; }

void KvEngine::end_prompt(const Exec& exec, SeqId seq) {
    State& s = *state_;
    State::Sequence& sequence = s.at(seq);
    if (!sequence.in_prompt) return;
    const KvNeeds& needs = s.shape.chain.needs();
    if (s.shape.chain.edits() && needs.waits_for_layers && sequence.tokens > 0) {
        s.edit_together(exec, sequence);
    } else if (s.shape.chain.edits()) {
        for (std::size_t i = 0; i < sequence.layers.size(); ++i)
            end_layer(exec, seq, static_cast<int>(i), sequence.tokens);
    }
    end_layers(seq, 0);
}

namespace {
bool by_layer(const KvNeeds& needs) { return needs.edits_prompt && !needs.waits_for_layers; }
}  // namespace

bool KvEngine::edits_by_layer() const noexcept { return by_layer(state_->shape.chain.needs()); }

bool KvEngine::passes_by_layer(const KvOptions& options) {
    const KvChain chain = KvChain::parse(options.policy, "--kv-policy");
    return by_layer(chain.needs()) || chain.of(KvPolicy::kFilter) != nullptr;
}

void KvEngine::end_layer(const Exec& exec, SeqId seq, int layer, std::int64_t prompt_tokens) {
    State& s = *state_;
    State::Sequence& sequence = s.at(seq);
    const auto i = static_cast<std::size_t>(layer);
    if (!s.shape.governs(i) || !s.shape.chain.edits() || sequence.edited[i] || prompt_tokens == 0)
        return;
    const auto tokens = s.layer_tokens(sequence, prompt_tokens);
    s.edit_layer(exec, sequence, i, prompt_tokens, tokens[i]);
    sequence.edited[i] = true;
    sequence.layers[i]->end_prompt();
}

void KvEngine::end_layers(SeqId seq, std::int64_t prompt_tokens) {
    State::Sequence& sequence = state_->at(seq);
    if (prompt_tokens > 0) sequence.tokens = prompt_tokens;
    sequence.in_prompt = false;
    for (const auto& layer : sequence.layers) {
        layer->end_prompt();
        layer->prompt_tokens = sequence.tokens;
    }
}

}  // namespace thimble
