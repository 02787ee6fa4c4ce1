// SPDX-License-Identifier: Apache-2.0
#include "kv/engine.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "kv/engine_state.h"

namespace thimble {

void SequenceState::recur(const Exec&, int, View, View, View) {
    throw Error(Exit::kFailure, "sequences", "these remember no recurrent state");
}

void KvOptions::visit(OptionVisitor& v) {
    v.group("KV cache");
    v.option({.name = "ctx-size",
              .letter = 'c',
              .help = "context in tokens; 0: the model's trained length",
              .value = "N",
              .least = 0,
              .most = 1 << 30},
             context_tokens);
    v.option({.name = "cache-type-k",
              .help = "type of cached keys",
              .choices = {"f32", "f16", "bf16", "q8_0"},
              .also = "ctk"},
             type_k);
    v.option({.name = "cache-type-v",
              .help = "type of cached values",
              .choices = {"f32", "f16", "bf16", "q8_0"},
              .also = "ctv"},
             type_v);
    v.option({.name = "kv-policy",
              .help = "which keys are kept: full | streaming:sink=4,budget=1024 | "
                      "snapkv:budget=25% | ...; links of a chain are joined by +",
              .value = "NAME[:KEY=VALUE,...]"},
             policy);
    v.option({.name = "kv-huge-pages",
              .help = "keys and values in pages of 2 MiB where the system has them",
              .changes_output = false},
             huge_pages);
}

std::int64_t KvEngine::State::Sequence::floor() const {
    std::int64_t least = recurrent.rollback_floor(written);
    for (const auto& layer : layers)
        least = std::max({least, layer->store.rollback_floor(written), layer->floor});
    return least;
}

void KvEngine::State::Sequence::check() const {
    if (tokens >= floor()) return;
    throw Error(
        Exit::kFailure, "KV",
        "the sequence lost what it remembered in a step that failed; it must be started anew");
}

void KvEngine::State::Sequence::cut(std::int64_t count) {
    for (const auto& layer : layers) layer->cut(count);
    if (count != 0) return;
    written = 0;
    in_prompt = true;
    edited.assign(layers.size(), false);
}

KvEngine::State::Sequence& KvEngine::State::at(SeqId seq) const {
    const auto i = static_cast<std::size_t>(seq);
    if (seq < 0 || i >= sequences.size() || !sequences[i])
        throw Error(Exit::kFailure, "KV", "no sequence " + std::to_string(seq));
    return *sequences[i];
}

void KvEngine::State::check_room(std::int64_t tokens) const {
    if (tokens <= shape.capacity) return;
    throw Error(Exit::kUsage, "--ctx-size",
                std::to_string(tokens) + " tokens do not fit a context of " +
                    std::to_string(shape.capacity),
                "raise --ctx-size or shorten the text");
}

SeqId KvEngine::State::add(std::unique_ptr<Sequence> sequence) {
    const auto free = std::find(sequences.begin(), sequences.end(), nullptr);
    const auto id = static_cast<SeqId>(free - sequences.begin());
    if (free == sequences.end()) {
        sequences.push_back(std::move(sequence));
    } else {
        *free = std::move(sequence);
    }
    return id;
}

KvEngine::KvEngine(StateLayers layers, const KvOptions& options, const KvPlacement& placement)
    : state_(std::make_unique<State>(std::move(layers), options, placement)) {}

KvEngine::~KvEngine() {
    state_.reset();
    LanePool::process().trim();  // another engine's ranges have other shapes
}

SeqId KvEngine::open() {
    State& s = *state_;
    auto sequence = std::make_unique<State::Sequence>();
    for (const LayerPlan& plan : s.shape.plans)
        sequence->layers.push_back(std::make_unique<LayerState>(plan, s.memory));
    if (!s.shape.recurrent.empty())
        sequence->recurrent = RecurrentState(s.shape.recurrent, s.shape.state_dtype());
    sequence->edited.assign(sequence->layers.size(), false);
    return s.add(std::move(sequence));
}

SeqId KvEngine::fork(SeqId seq) {
    State& s = *state_;
    State::Sequence& from = s.at(seq);
    auto sequence = std::make_unique<State::Sequence>();
    for (const auto& layer : from.layers) sequence->layers.push_back(layer->fork());
    if (!s.shape.recurrent.empty()) sequence->recurrent = from.recurrent.clone();
    sequence->edited = from.edited;
    sequence->tokens = from.tokens;
    sequence->written = from.written;
    sequence->in_prompt = from.in_prompt;
    sequence->budget = from.budget;
    return s.add(std::move(sequence));
}

void KvEngine::close(SeqId seq) {
    if (state_->current == &state_->at(seq)) state_->current = nullptr;
    state_->views.clear();
    state_->sequences[static_cast<std::size_t>(seq)].reset();
}

std::int64_t KvEngine::tokens(SeqId seq) const { return state_->at(seq).tokens; }

std::int64_t KvEngine::capacity_tokens() const noexcept { return state_->shape.capacity; }

std::int64_t KvEngine::rollback_floor(SeqId seq) const { return state_->at(seq).floor(); }

void KvEngine::truncate(SeqId seq, std::int64_t tokens) {
    State::Sequence& sequence = state_->at(seq);
    if (tokens == sequence.tokens) return;
    if (tokens != 0 && (tokens < rollback_floor(seq) || tokens > sequence.tokens)) {
        throw Error(Exit::kUsage, "--kv-policy",
                    "a sequence of " + std::to_string(sequence.tokens) +
                        " tokens cannot be cut back to " + std::to_string(tokens) + ": at least " +
                        std::to_string(rollback_floor(seq)) + " must stay, or none",
                    "what it knew then is gone: start the sequence anew");
    }
    sequence.tokens = tokens;
    sequence.cut(tokens);
}

void KvEngine::begin_step(SeqId seq, std::int64_t count) {
    State& s = *state_;
    State::Sequence& sequence = s.at(seq);
    sequence.check();
    // What a step that failed left behind goes first.
    for (std::size_t i = 0; i < sequence.layers.size(); ++i) {
        if (!s.shape.plans[i].ring()) sequence.layers[i]->cut(sequence.tokens);
    }
    s.check_room(sequence.tokens + count);
    for (const auto& layer : sequence.layers) layer->store.reserve(sequence.tokens, count);
    begin_layer_step(seq, 0, count);
    s.step_counts = true;
}

void KvEngine::begin_layer_step(SeqId seq, std::int64_t offset, std::int64_t count) {
    State& s = *state_;
    State::Sequence& sequence = s.at(seq);
    const std::int64_t first = sequence.tokens + offset;
    s.check_room(first + count);
    sequence.written = std::max(sequence.written, first + count);
    s.current = &sequence;
    s.step_first = first;
    s.step_tokens = count;
    s.step_counts = false;
}

void KvEngine::recur(const Exec& exec, int layer, View keep, View take, View out) {
    State& s = *state_;
    const auto i = static_cast<std::size_t>(layer);
    if (s.current == nullptr || i >= s.shape.recurrent.size() || out.rows != s.step_tokens)
        throw Error(Exit::kFailure, "KV", "recur outside of its step");
    s.current->recurrent.step(exec, i, s.step_first, keep, take, out);
}

void KvEngine::end_step() {
    State& s = *state_;
    for (const auto& view : s.views) ++view.back()->tokens;
    if (!s.views.empty()) return s.views.clear();
    if (s.current == nullptr) throw Error(Exit::kFailure, "KV", "end of a step never begun");
    if (s.step_counts) s.current->tokens += s.step_tokens;
    s.current = nullptr;
}

std::uint64_t KvEngine::bytes() const noexcept {
    std::uint64_t sum = 0;
    std::set<const LayerStore::Part*> parts;
    for (const auto& sequence : state_->sequences) {
        if (!sequence) continue;
        sum += sequence->recurrent.bytes();
        for (const auto& layer : sequence->layers) {
            sum += layer->list_bytes();
            for (const auto& part : layer->store.parts()) {
                if (parts.insert(part.get()).second) sum += part->bytes();
            }
        }
    }
    return sum;
}

std::uint64_t KvEngine::bytes(SeqId seq) const {
    std::uint64_t sum = state_->at(seq).recurrent.bytes();
    for (const auto& layer : state_->at(seq).layers) {
        sum += layer->list_bytes();
        for (const auto& part : layer->store.parts()) sum += part->bytes();
    }
    return sum;
}

std::int64_t KvEngine::slots(SeqId seq, int layer, int kv_head) const {
    return state_->at(seq).layers[static_cast<std::size_t>(layer)]->store.slots(kv_head);
}

std::vector<std::int32_t> KvEngine::positions(SeqId seq, int layer, int kv_head) const {
    const State::Sequence& sequence = state_->at(seq);
    const LayerStore& store = sequence.layers[static_cast<std::size_t>(layer)]->store;
    const KvBand& band = store.plan().band;
    if (!store.plan().ring()) {
        const auto list = store.positions(kv_head);
        return {list.begin(), list.end()};
    }
    std::vector<std::int32_t> list;
    const std::int64_t recent = std::max(band.sinks, sequence.tokens - band.window);
    for (std::int64_t p = 0; p < sequence.tokens; ++p) {
        if (p < band.sinks || p >= recent) list.push_back(static_cast<std::int32_t>(p));
    }
    return list;
}

void KvEngine::watch(Watcher watcher) { state_->watcher = std::move(watcher); }

std::int64_t KvEngine::read_tokens(int layer, std::int64_t tokens) const {
    const KvShape& shape = state_->shape;
    return shape.chain.read_tokens(shape.model, layer, tokens, shape.token_bytes);
}

}  // namespace thimble
