// SPDX-License-Identifier: Apache-2.0
#include "kv/engine.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "kv/layer_store.h"

namespace thimble {
namespace {

constexpr std::int64_t kTile = ops::kAttentionTile;

ModelInfo model_info(const std::vector<AttentionSpec>& layers, std::int64_t context_tokens) {
    ModelInfo model;
    for (const AttentionSpec& layer : layers) model.layers.push_back(layer.shape);
    model.context_tokens = context_tokens;
    return model;
}

std::vector<LayerPlan> make_plans(const std::vector<AttentionSpec>& layers,
                                  const KvOptions& options, const KvPolicy& policy,
                                  const KvPlacement& placement) {
    if (options.context_tokens <= 0)
        throw Error(Exit::kUsage, "--ctx-size", "the context needs at least one token");
    const ModelInfo model = model_info(layers, options.context_tokens);
    std::vector<LayerPlan> plans;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const AttentionLayer& shape = layers[i].shape;
        const KvBand band = shape.window > 0 ? KvBand{.window = shape.window}
                                             : policy.band(model, static_cast<int>(i));
        const auto k = KvEncoding::parse(options.type_k, "-ctk", shape.head_dim, placement.device);
        const auto v = KvEncoding::parse(options.type_v, "-ctv", shape.head_dim, placement.device);
        plans.push_back(LayerPlan::make(shape, band, k, v, options.context_tokens,
                                        placement.at(i).device_tokens));
    }
    return plans;
}

// Compact positions stay below the budget however long the text grows; linear stores and true
// positions do not.
std::int64_t capacity_of(const std::vector<LayerPlan>& plans, const KvNeeds& needs,
                         const KvOptions& options) {
    const bool endless =
        needs.positions == PositionMode::kCompact &&
        std::all_of(plans.begin(), plans.end(), [](const LayerPlan& plan) { return plan.ring(); });
    return endless ? std::numeric_limits<std::int64_t>::max() / 4 : options.context_tokens;
}

std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

}  // namespace

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
              .help = "which keys are kept: full | streaming:sink=4,budget=1024",
              .value = "NAME[:KEY=VALUE,...]"},
             policy);
}

struct KvEngine::State {
    struct Sequence {
        std::vector<std::unique_ptr<LayerStore>> layers;
        std::int64_t tokens = 0;
        std::int64_t written = 0;  // most tokens since it was empty: rings have lost what is older

        [[nodiscard]] std::int64_t floor() const {
            std::int64_t least = 0;
            for (const auto& layer : layers)
                least = std::max(least, layer->rollback_floor(written));
            return least;
        }
        void resize(std::int64_t count) {
            for (const auto& layer : layers) layer->resize(count);
        }
    };

    std::vector<AttentionSpec> specs;
    std::unique_ptr<KvPolicy> policy;
    KvNeeds needs;
    std::vector<LayerPlan> plans;
    std::int64_t capacity = 0;
    std::vector<std::unique_ptr<Sequence>> sequences;  // by SeqId; null: closed
    Sequence* current = nullptr;                       // of the step in progress
    std::int64_t step_tokens = 0;

    [[nodiscard]] Sequence& at(SeqId seq) const {
        const auto i = static_cast<std::size_t>(seq);
        if (seq < 0 || i >= sequences.size() || !sequences[i])
            throw Error(Exit::kFailure, "KV", "no sequence " + std::to_string(seq));
        return *sequences[i];
    }

    void attend_piece(const Exec& exec, std::size_t layer, std::int64_t first, View q, View k,
                      View v, View out) const;
    void attend_band(const Exec& exec, std::size_t layer, std::int64_t first, View q, View raw_q,
                     View out) const;
};

KvEngine::KvEngine(std::vector<AttentionSpec> layers, const KvOptions& options,
                   const KvPlacement& placement)
    : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.policy = make_kv_policy(options.policy, "--kv-policy");
    s.needs = s.policy->needs();
    s.plans = make_plans(layers, options, *s.policy, placement);
    s.specs = std::move(layers);
    s.capacity = capacity_of(s.plans, s.needs, options);
}

KvEngine::~KvEngine() = default;

SeqId KvEngine::open() {
    State& s = *state_;
    auto sequence = std::make_unique<State::Sequence>();
    for (const LayerPlan& plan : s.plans)
        sequence->layers.push_back(std::make_unique<LayerStore>(plan));
    const auto free = std::find(s.sequences.begin(), s.sequences.end(), nullptr);
    const auto id = static_cast<SeqId>(free - s.sequences.begin());
    if (free == s.sequences.end()) {
        s.sequences.push_back(std::move(sequence));
    } else {
        *free = std::move(sequence);
    }
    return id;
}

void KvEngine::close(SeqId seq) {
    if (state_->current == &state_->at(seq)) state_->current = nullptr;
    state_->sequences[static_cast<std::size_t>(seq)].reset();
}

std::int64_t KvEngine::tokens(SeqId seq) const { return state_->at(seq).tokens; }

std::int64_t KvEngine::capacity_tokens() const noexcept { return state_->capacity; }

std::int64_t KvEngine::capacity_tokens(const std::vector<AttentionSpec>& layers,
                                       const KvOptions& options) {
    const auto policy = make_kv_policy(options.policy, "--kv-policy");
    return capacity_of(make_plans(layers, options, *policy, Device::kCpu), policy->needs(),
                       options);
}

std::int64_t KvEngine::rollback_floor(SeqId seq) const {
    const State::Sequence& sequence = state_->at(seq);
    return state_->needs.can_rollback ? sequence.floor() : sequence.tokens;
}

void KvEngine::truncate(SeqId seq, std::int64_t tokens) {
    State::Sequence& sequence = state_->at(seq);
    if (tokens == sequence.tokens) return;
    if (tokens != 0 && (tokens < rollback_floor(seq) || tokens > sequence.tokens)) {
        throw Error(Exit::kUsage, "--kv-policy",
                    "a sequence of " + std::to_string(sequence.tokens) +
                        " tokens cannot be cut back to " + std::to_string(tokens) + ": at least " +
                        std::to_string(rollback_floor(seq)) + " must stay, or none",
                    "earlier keys are gone: start the sequence anew");
    }
    sequence.tokens = tokens;
    if (tokens == 0) sequence.written = 0;
    sequence.resize(tokens);
}

void KvEngine::begin_step(SeqId seq, std::int64_t count) {
    State& s = *state_;
    State::Sequence& sequence = s.at(seq);
    if (count > s.capacity - sequence.tokens) {
        throw Error(Exit::kUsage, "--ctx-size",
                    std::to_string(sequence.tokens + count) + " tokens do not fit a context of " +
                        std::to_string(s.capacity),
                    "raise --ctx-size or shorten the text");
    }
    if (sequence.tokens < sequence.floor()) {
        throw Error(Exit::kFailure, "KV",
                    "the sequence lost keys in a step that failed; it must be started anew");
    }
    sequence.resize(sequence.tokens + count);
    sequence.written = std::max(sequence.written, sequence.tokens + count);
    s.current = &sequence;
    s.step_tokens = count;
}

void KvEngine::attend(const Exec& exec, int layer, View q, View k, View v, View out) {
    const State& s = *state_;
    const auto i = static_cast<std::size_t>(layer);
    if (s.current == nullptr || i >= s.plans.size() || q.rows != s.step_tokens)
        throw Error(Exit::kFailure, "KV", "attend outside of its step");
    // Rings hold what a tile of queries reads and no more, so they are filled tile by tile.
    const std::int64_t start = s.current->tokens, end = start + q.rows;
    for (std::int64_t first = start; first < end;) {
        const std::int64_t last =
            s.plans[i].ring() ? std::min(end, (first / kTile + 1) * kTile) : end;
        const std::int64_t row = first - start, count = last - first;
        s.attend_piece(exec, i, first, q.slice_rows(row, count), k.slice_rows(row, count),
                       v.slice_rows(row, count), out.slice_rows(row, count));
        first = last;
    }
}

void KvEngine::end_step() {
    State& s = *state_;
    if (s.current == nullptr) throw Error(Exit::kFailure, "KV", "end of a step never begun");
    s.current->tokens += s.step_tokens;
    s.current = nullptr;
}

// Rotates, stores and attends rows of consecutive positions from `first` on.
void KvEngine::State::attend_piece(const Exec& exec, std::size_t layer, std::int64_t first, View q,
                                   View k, View v, View out) const {
    const WorkspaceScope scope(*exec.workspace), host_scope(*exec.host().workspace);
    const AttentionSpec& spec = specs[layer];
    const KvBand& band = plans[layer].band;
    LayerStore& store = *current->layers[layer];
    const std::int64_t end = first + q.rows;
    const std::span<std::int64_t> positions(
        reinterpret_cast<std::int64_t*>(
            exec.host().workspace->take(static_cast<std::size_t>(q.rows) * sizeof(std::int64_t))),
        static_cast<std::size_t>(q.rows));
    std::iota(positions.begin(), positions.end(), first);

    // Rows at sinks + window and beyond read two places of the cache.
    const std::int64_t dense =
        band.sinks > 0 ? std::clamp(band.sinks + band.window - first, std::int64_t{0}, q.rows)
                       : q.rows;
    View raw_q;
    if (dense < q.rows && needs.positions == PositionMode::kCompact) {
        raw_q = exec.workspace->take_view(q.dtype, q.rows - dense, q.cols);
        ops::copy(exec, q.slice_rows(dense, raw_q.rows), raw_q);
    }
    ops::rope(exec, spec.rope, spec.shape.head_dim, positions, q);
    ops::rope(exec, spec.rope, spec.shape.head_dim, positions, k);
    store.write(exec, first, k, v);

    if (dense > 0) {
        const std::int64_t window = band.sinks > 0 ? 0 : band.window;
        const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(first - window + 1, 0) : 0;
        const LayerStore::Segments keys = store.segments(oldest, first + dense);
        ops::attention(exec, {.q = q.slice_rows(0, dense),
                              .out = out.slice_rows(0, dense),
                              .segments = keys.span(),
                              .q_positions = positions.first(static_cast<std::size_t>(dense)),
                              .heads = spec.shape.heads,
                              .kv_heads = spec.shape.kv_heads,
                              .head_dim = spec.shape.head_dim,
                              .scale = spec.scale,
                              .window = window,
                              .softcap = spec.softcap});
    }
    if (dense < q.rows) {
        attend_band(exec, layer, first + dense, q.slice_rows(dense, end - first - dense), raw_q,
                    out.slice_rows(dense, end - first - dense));
    }
}

// Rows that read the sinks and a window. With compact positions a row's distance to a window key is
// what it was, as both move together; only its distance to the sinks differs. So the row meets the
// sinks with a second copy of q, rotated as if it stood at the end of the budget, and the two parts
// are merged.
void KvEngine::State::attend_band(const Exec& exec, std::size_t layer, std::int64_t first, View q,
                                  View raw_q, View out) const {
    const AttentionSpec& spec = specs[layer];
    const KvBand& band = plans[layer].band;
    const LayerStore& store = *current->layers[layer];
    const auto rows = static_cast<std::size_t>(q.rows);
    const std::span<std::int64_t> positions(
        reinterpret_cast<std::int64_t*>(exec.host().workspace->take(rows * sizeof(std::int64_t))),
        rows);
    std::iota(positions.begin(), positions.end(), first);
    const LayerStore::Segments window = store.segments(first - band.window + 1, first + q.rows);

    ops::Attention problem{.q = q,
                           .out = out,
                           .segments = window.span(),
                           .q_positions = positions,
                           .heads = spec.shape.heads,
                           .kv_heads = spec.shape.kv_heads,
                           .head_dim = spec.shape.head_dim,
                           .scale = spec.scale,
                           .window = band.window,
                           .softcap = spec.softcap};
    const auto new_state = [&](View o) {
        return ops::AttnState{.o = o,
                              .max = exec.workspace->take_view(q.dtype, q.rows, spec.shape.heads),
                              .sum = exec.workspace->take_view(q.dtype, q.rows, spec.shape.heads)};
    };
    const ops::AttnState recent = new_state(exec.workspace->take_view(q.dtype, q.rows, q.cols));
    ops::attention_state(exec, problem, recent);

    if (needs.positions == PositionMode::kCompact) {
        std::fill(positions.begin(), positions.end(), band.sinks + band.window - 1);
        ops::rope(exec, spec.rope, spec.shape.head_dim, positions, raw_q);
        problem.q = raw_q;
    }
    const LayerStore::Segments sinks = store.sinks();
    problem.segments = sinks.span();
    problem.window = 0;
    const ops::AttnState all = new_state(out);
    ops::attention_state(exec, problem, all);
    ops::merge(exec, recent, all, spec.shape.head_dim);
}

std::uint64_t KvEngine::bytes() const noexcept {
    std::uint64_t sum = 0;
    for (const auto& sequence : state_->sequences) {
        if (!sequence) continue;
        for (const auto& layer : sequence->layers) sum += layer->bytes();
    }
    return sum;
}

std::uint64_t KvEngine::predict_bytes(const std::vector<AttentionSpec>& layers,
                                      const KvOptions& options, std::int64_t tokens,
                                      const KvPlacement& placement) {
    const auto policy = make_kv_policy(options.policy, "--kv-policy");
    std::uint64_t sum = 0;
    for (const LayerPlan& plan : make_plans(layers, options, *policy, placement))
        sum += plan.bytes(tokens);
    return sum;
}

std::uint64_t KvEngine::predict_device_bytes(const std::vector<AttentionSpec>& layers,
                                             const KvOptions& options,
                                             const KvPlacement& placement) {
    const auto policy = make_kv_policy(options.policy, "--kv-policy");
    std::uint64_t sum = 0;
    for (const LayerPlan& plan : make_plans(layers, options, *policy, placement)) {
        if (plan.device_slots > 0) sum += plan.device_bytes();
    }
    return sum;
}

bool KvEngine::can_store(const std::vector<AttentionSpec>& layers, LayoutId layout) {
    const int block = layout_info(layout).block_elements;
    return std::all_of(layers.begin(), layers.end(),
                       [&](const AttentionSpec& l) { return l.shape.head_dim % block == 0; });
}

KvEngine::WorkspaceBytes KvEngine::workspace_bytes(const std::vector<AttentionSpec>& layers,
                                                   const KvOptions& options, std::int64_t count,
                                                   const KvPlacement& placement) {
    const auto policy = make_kv_policy(options.policy, "--kv-policy");
    const std::size_t element = placement.device == Device::kRef ? sizeof(double) : sizeof(float);
    WorkspaceBytes most;
    const std::vector<LayerPlan> plans = make_plans(layers, options, *policy, placement);
    for (std::size_t i = 0; i < plans.size(); ++i) {
        const LayerPlan& plan = plans[i];
        const AttentionLayer& shape = layers[i].shape;
        const std::int64_t rows = plan.ring() ? std::min(count, kTile) : count;
        const auto n = static_cast<std::size_t>(rows);
        const auto heads = static_cast<std::size_t>(shape.heads);
        const auto dim = static_cast<std::size_t>(shape.head_dim);
        const std::size_t positions = 2 * aligned(n * sizeof(std::int64_t));
        const bool on_device = placement.at(i).on_device;
        const Device device = on_device                          ? Device::kCuda
                              : placement.device == Device::kRef ? Device::kRef
                                                                 : Device::kCpu;
        std::size_t bytes = 0;
        if (plan.band.sinks > 0)
            bytes += 2 * aligned(n * heads * dim * element) + 4 * aligned(n * heads * element);
        bytes +=
            ops::attention_workspace_bytes(rows, shape.heads, shape.head_dim, plan.slots, device);
        if (!on_device) {
            most.host = std::max(most.host, positions + bytes);
            continue;
        }
        most.device = std::max(most.device, bytes);
        std::size_t host = positions;
        if (plan.device_slots < plan.all_slots()) {
            const std::size_t copies =
                aligned(n * static_cast<std::size_t>(shape.kv_heads) * dim * element);
            host += std::max(
                copies, ops::host_attention_bytes(rows, shape.heads, shape.head_dim, plan.slots));
        }
        most.host = std::max(most.host, host);
    }
    return most;
}

}  // namespace thimble
