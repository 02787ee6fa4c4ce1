// SPDX-License-Identifier: Apache-2.0
#include "train/pass.h"

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"
#include "ops/gradients.h"
#include "train/place.h"

namespace thimble::train {

struct Pass::State {
    State(const ModelSource& from, const Exec& how, WeightStore& weights, const PassOptions& o)
        : source(from),
          exec(how),
          store(weights),
          options(o),
          units(units_of(from)),
          sequences(from.spec().attention),
          output(units.back().matrix("output")),
          output_norm(units.back().vector("output_norm")) {
        const ModelSpec& spec = source.spec();
        for (int layer = 0; layer < static_cast<int>(spec.layers); ++layer) {
            const UnitSpec& unit = units[static_cast<std::size_t>(layer) + 1];
            auto& blocks = layers.emplace_back();
            for (const std::string& kind : spec.sublayers) {
                blocks.push_back(make_block(kind, {spec, unit, layer}));
                if (blocks.back()->trains()) continue;
                throw Error(Exit::kUsage, "--model",
                            "layers of kind '" + kind + "' have no backward pass yet",
                            "train a model of attention and ffn layers");
            }
        }
        segment = options.checkpoint_layers > 0 ? std::min(options.checkpoint_layers, spec.layers)
                                                : spec.layers;
        segments = ceil_div(spec.layers, segment);
        if (options.most_document <= 0) options.most_document = options.most_tokens;
    }

    const ModelSource& source;
    Exec exec;
    WeightStore& store;
    PassOptions options;
    std::vector<UnitSpec> units;
    std::vector<std::vector<std::unique_ptr<Block>>> layers;
    PackedSequences sequences;
    std::size_t output, output_norm;
    std::int64_t segment = 1, segments = 1;  // layers of a segment; how many there are

    std::unique_ptr<Workspace> workspace;
    std::size_t layer_bytes = 0;                   // that a layer keeps
    std::unique_ptr<ActivationStore> saved;        // [segment] of these
    std::unique_ptr<ActivationStore> checkpoints;  // [segments - 1] inputs of a segment
    Buffer residual;                               // x and its gradient

    [[nodiscard]] std::size_t stream_bytes() const {
        return view_bytes(exec, options.most_tokens, source.spec().hidden);
    }
    // A residual stream that lies there.
    [[nodiscard]] View stream(std::byte* at, std::int64_t rows) const {
        const std::int64_t hidden = source.spec().hidden;
        return {at, exec.dtype(), rows, hidden, hidden};
    }
    [[nodiscard]] static std::byte* on_paper() { return reinterpret_cast<std::byte*>(64); }
    // What every layer keeps lies on the tier where no layer is computed twice.
    [[nodiscard]] bool saved_on_disk() const {
        return options.activations_on_disk && segments == 1;
    }
    [[nodiscard]] std::size_t count_of_checkpoints() const {
        return static_cast<std::size_t>(segments - 1);
    }
    [[nodiscard]] std::size_t blocks_per_layer() const { return layers.front().size(); }

    void embed(const Batch& batch, View x);
    // Runs a layer; keeps what its backward needs where `keeps`.
    void layer_forward(std::int64_t layer, View x, bool keeps);
    void layer_backward(std::int64_t layer, View dx, GradientSink& sink);
    void put_checkpoint(std::int64_t at, View x);
    void take_checkpoint(std::int64_t at, View x);
    [[nodiscard]] LossSums run(const Batch& batch, double scale, GradientSink* sink,
                               const Judge& judge);
    void finish_head(GradientSink& sink) const;
    void backward(const Batch& batch, View x, View dx, GradientSink& sink);
    void check(const Batch& batch) const;
};

void Pass::State::embed(const Batch& batch, View x) {
    const Lease lease = store.acquire({UnitKind::kEmbedding, 0});
    if (exec.dry) return;
    ops::embed(exec, lease.matrix(0).weight, batch.tokens, source.spec().embedding_scale, x);
}

void Pass::State::layer_forward(std::int64_t layer, View x, bool keeps) {
    const Lease lease = store.acquire({UnitKind::kLayer, layer});
    // What a layer keeps lies block after block.
    const auto place = static_cast<std::size_t>(layer % segment);
    SavedViews views(keeps && !exec.dry ? saved->room(place) : on_paper());
    BlockCtx ctx = {exec, lease, sequences, nullptr, keeps ? &views : nullptr};
    for (const auto& block : layers[static_cast<std::size_t>(layer)]) block->forward(ctx, x);
    if (!keeps) return;
    if (exec.dry) {
        layer_bytes = std::max(layer_bytes, views.used());
    } else {
        saved->put(place, views.used());
    }
}

void Pass::State::layer_backward(std::int64_t layer, View dx, GradientSink& sink) {
    const Lease lease = store.acquire({UnitKind::kLayer, layer});
    const auto& blocks = layers[static_cast<std::size_t>(layer)];
    // Where each block's views begin follows from the ones before it.
    const auto place = static_cast<std::size_t>(layer % segment);
    std::byte* const kept = exec.dry ? on_paper() : saved->take(place);
    std::vector<std::size_t> begins = {0};
    for (const auto& block : blocks)
        begins.push_back(begins.back() + block->saved_bytes(exec, dx.rows));
    for (std::size_t b = blocks.size(); b-- > 0;) {
        SavedViews views(kept + begins[b]);
        BackwardCtx ctx = {exec, lease, sequences, views, sink};
        blocks[b]->backward(ctx, dx);
    }
    if (!exec.dry) saved->drop(place);
}

void Pass::State::put_checkpoint(std::int64_t at, View x) {
    if (exec.dry) return;
    const auto place = static_cast<std::size_t>(at);
    ops::copy_to_host(exec, x, stream(checkpoints->room(place), x.rows));
    checkpoints->put(place, view_bytes(exec, x.rows, x.cols));
}

void Pass::State::take_checkpoint(std::int64_t at, View x) {
    if (exec.dry) return;
    const auto place = static_cast<std::size_t>(at);
    ops::copy_to_device(exec, stream(checkpoints->take(place), x.rows), x);
    checkpoints->drop(place);
}

void Pass::State::check(const Batch& batch) const {
    std::int64_t sum = 0;
    for (const std::int64_t length : batch.documents) sum += length;
    if (sum != std::ssize(batch.tokens) || batch.targets.size() != batch.tokens.size() ||
        std::ssize(batch.tokens) > options.most_tokens) {
        throw Error(Exit::kFailure, "pass", "a batch that was not planned for");
    }
    for (const auto& ids : {batch.tokens, batch.targets}) {
        for (const std::int32_t id : ids) {
            const bool none = ids.data() == batch.targets.data() && id == kNoTarget;
            if (none || (id >= 0 && id < source.spec().vocab)) continue;
            throw Error(Exit::kBadData, escaped(source.file().path(), 1024),
                        "token " + std::to_string(id) + " is outside the model's vocabulary of " +
                            std::to_string(source.spec().vocab));
        }
    }
}

LossSums Pass::State::run(const Batch& batch, double scale, GradientSink* sink,
                          const Judge& judge) {
    check(batch);
    sequences.set_documents(batch.documents);
    const std::int64_t rows = std::ssize(batch.tokens);
    std::byte* const at = exec.dry ? on_paper() : residual.data();
    const View x = stream(at, rows), dx = stream(at + stream_bytes(), rows);
    embed(batch, x);
    for (std::int64_t layer = 0; layer < std::ssize(layers); ++layer) {
        const std::int64_t at_segment = layer / segment;
        const bool last = at_segment + 1 == segments;
        if (sink != nullptr && layer % segment == 0 && !last) put_checkpoint(at_segment, x);
        layer_forward(layer, x, sink != nullptr && last);
    }
    const LossProblem problem{.kind = options.loss,
                              .x = x,
                              .targets = batch.targets,
                              .epsilon = source.spec().norm_epsilon,
                              .scale = scale};
    LossSums sums;
    {
        const Lease head = store.acquire({UnitKind::kHead, 0});
        sums = sink != nullptr ? loss_backward(exec, head, output_norm, output, problem, *sink, dx)
                               : loss_forward(exec, head, output_norm, output, problem);
    }
    if (sink == nullptr) return sums;
    if (judge) judge(sums);
    finish_head(*sink);
    backward(batch, x, dx, *sink);
    return sums;
}

void Pass::State::finish_head(GradientSink& sink) const {
    const UnitId head = {UnitKind::kHead, 0};
    for (const ParameterId& id : {ParameterId{head, ParameterId::Part::kMatrix, output, 0},
                                  {head, ParameterId::Part::kVector, output_norm, 0}}) {
        if (sink.gradient(id)) sink.done(id);
    }
}

void Pass::State::backward(const Batch& batch, View x, View dx, GradientSink& sink) {
    for (std::int64_t s = segments; s-- > 0;) {
        const std::int64_t first = s * segment;
        const std::int64_t end = std::min(first + segment, std::ssize(layers));
        if (s + 1 < segments) {
            take_checkpoint(s, x);
            for (std::int64_t layer = first; layer < end; ++layer) layer_forward(layer, x, true);
        }
        for (std::int64_t layer = end; layer-- > first;) layer_backward(layer, dx, sink);
    }
    const ParameterId id{{UnitKind::kEmbedding, 0}, ParameterId::Part::kMatrix, 0, 0};
    const auto table = sink.gradient(id);
    if (!table) return;
    if (!exec.dry)
        ops::embed_backward(exec, batch.tokens, source.spec().embedding_scale, dx, *table);
    sink.done(id);
}

PassBytes Pass::measure(const ModelSource& source, Exec exec, WeightStore& store,
                        GradientSink& sink, const PassOptions& options) {
    Workspace workspace;
    exec.dry = true;
    exec.workspace = &workspace;
    State state(source, exec, store, options);
    const std::vector<std::int32_t> ids(static_cast<std::size_t>(options.most_tokens), 0);
    std::vector<std::int64_t> documents;
    for (std::int64_t left = options.most_tokens; left > 0;) {
        documents.push_back(std::min(left, state.options.most_document));
        left -= documents.back();
    }
    (void)state.run({ids, ids, documents}, 1, &sink, {});
    const auto count = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    PassBytes bytes;
    bytes.workspace = workspace.peak();
    bytes.layer = state.layer_bytes;
    const std::size_t layers = count(state.segment), checkpoints = state.count_of_checkpoints();
    bytes.saved = state.saved_on_disk()
                      ? disk_activation_bytes(layers, state.layer_bytes)
                      : memory_activation_bytes(layers, state.layer_bytes, place_of(exec));
    bytes.checkpoints =
        options.activations_on_disk
            ? disk_activation_bytes(checkpoints, state.stream_bytes())
            : memory_activation_bytes(checkpoints, state.stream_bytes(), host_place_of(exec));
    bytes.residual = 2 * state.stream_bytes();
    return bytes;
}

Pass::Pass(const ModelSource& source, const Exec& exec, WeightStore& store,
           const PassOptions& options)
    : state_(std::make_unique<State>(source, exec, store, options)) {}

Pass::~Pass() = default;

void Pass::allocate(const PassBytes& bytes, storage::StorageTier* tier) {
    State& s = *state_;
    s.workspace = std::make_unique<Workspace>(bytes.workspace, place_of(s.exec));
    s.exec.workspace = s.workspace.get();
    const auto layers = static_cast<std::size_t>(s.segment);
    s.saved = s.saved_on_disk() ? make_disk_activations(layers, bytes.layer, *tier)
                                : make_memory_activations(layers, bytes.layer, place_of(s.exec));
    const std::size_t count = s.count_of_checkpoints();
    s.checkpoints = s.options.activations_on_disk
                        ? make_disk_activations(count, s.stream_bytes(), *tier)
                        : make_memory_activations(count, s.stream_bytes(), host_place_of(s.exec));
    s.residual = Buffer(bytes.residual, Purpose::kActivations, place_of(s.exec));
}

LossSums Pass::train(const Batch& batch, double scale, GradientSink& sink, const Judge& judge) {
    return state_->run(batch, scale, &sink, judge);
}

LossSums Pass::evaluate(const Batch& batch) { return state_->run(batch, 1, nullptr, {}); }

}  // namespace thimble::train
