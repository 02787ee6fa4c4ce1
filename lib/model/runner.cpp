// SPDX-License-Identifier: Apache-2.0
#include "model/runner.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/block.h"

namespace thimble {
namespace {

constexpr std::size_t kLogitBytes = std::size_t{32} << 20;

// Sizes that the constructor and the plan must agree on.
struct Shape {
    std::int64_t step_tokens = 0, logit_rows = 0;
    KvOptions kv;
};

Shape shape_of(const ModelSpec& spec, const RunnerOptions& options, const Exec& exec) {
    Shape shape;
    shape.kv = options.kv;
    if (shape.kv.context_tokens <= 0) shape.kv.context_tokens = spec.context_tokens;
    shape.step_tokens = std::clamp<std::int64_t>(options.step_tokens, 1, shape.kv.context_tokens);
    const std::size_t row = view_bytes(exec, 1, spec.vocab);
    shape.logit_rows =
        options.logit_rows > 0 ? options.logit_rows : static_cast<std::int64_t>(kLogitBytes / row);
    shape.logit_rows = std::clamp<std::int64_t>(shape.logit_rows, 1, shape.step_tokens);
    return shape;
}

Exec exec_of(const RunnerOptions& options) {
    Exec exec;
    exec.device = options.device;
    exec.isa = options.isa;
    exec.activations = options.activations;
    return exec;
}

// Blocks of every layer, in order.
using Layers = std::vector<std::vector<std::unique_ptr<Block>>>;

Layers make_layers(const ModelSpec& spec, const std::vector<UnitSpec>& units) {
    Layers layers;
    for (int layer = 0; layer < static_cast<int>(spec.layers); ++layer) {
        const UnitSpec& unit = units[static_cast<std::size_t>(layer) + 1];
        auto& blocks = layers.emplace_back();
        for (const std::string& kind : spec.sublayers) {
            blocks.push_back(make_block(kind, {spec, unit, layer}));
        }
    }
    return layers;
}

// The residual stream, and over it the hungriest of the blocks and the head.
std::size_t workspace_bytes(const ModelSpec& spec, const Layers& layers, const Exec& exec,
                            const Shape& shape) {
    const std::size_t attend =
        KvEngine::workspace_bytes(spec.attention, shape.kv, shape.step_tokens, exec.device);
    const BlockPlan plan = {exec, shape.step_tokens, attend};
    std::size_t peak = view_bytes(exec, shape.logit_rows, spec.hidden) +
                       ops::matmul_input_bytes(exec, shape.logit_rows, spec.hidden);
    for (const auto& blocks : layers) {
        for (const auto& block : blocks) peak = std::max(peak, block->workspace_bytes(plan));
    }
    return view_bytes(exec, shape.step_tokens, spec.hidden) + peak;
}

std::size_t logit_bytes(const ModelSpec& spec, const Exec& exec, std::int64_t rows) {
    return static_cast<std::size_t>(rows * spec.vocab) * size_of(exec.dtype());
}

// Encoded bytes of one row of head_dim keys or values.
std::uint64_t kv_row_bytes(std::string_view type, std::int64_t head_dim, Device device) {
    if (device == Device::kRef) return static_cast<std::uint64_t>(head_dim) * sizeof(double);
    return ops::packed_bytes(weight_formats().get(type, "--cache-type").info().layout,
                             {1, head_dim});
}

}  // namespace

struct Runner::State {
    std::unique_ptr<ModelSource> source;
    Exec exec;
    Shape shape;
    std::vector<UnitSpec> units;
    Layers layers;
    std::unique_ptr<WeightStore> store;
    std::unique_ptr<KvEngine> kv;
    std::unique_ptr<Workspace> workspace;
    Buffer logits;
    std::size_t output = 0, output_norm = 0;  // roles in the head's unit

    [[nodiscard]] const ModelSpec& spec() const { return source->spec(); }
    void step(SeqId seq, std::span<const std::int32_t> tokens, View x);
    void check(std::span<const std::int32_t> tokens) const;
    void head(View x, std::int64_t first, Tap* tap, const LogitsSink& sink);
    void reserve_logits(std::int64_t rows);
};

Runner::Runner(std::unique_ptr<ModelSource> source, const RunnerOptions& options, Team& team)
    : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.source = std::move(source);
    s.exec = exec_of(options);
    s.shape = shape_of(s.spec(), options, s.exec);
    s.units = units_of(*s.source);
    s.layers = make_layers(s.spec(), s.units);
    s.output = s.units.back().matrix("output");
    s.output_norm = s.units.back().vector("output_norm");
    s.exec.team = &team;
    s.store = make_store(*s.source, s.exec, {options.repack, options.weight_bytes});
    s.kv = std::make_unique<KvEngine>(s.spec().attention, s.shape.kv, options.device);
    s.workspace = std::make_unique<Workspace>(workspace_bytes(s.spec(), s.layers, s.exec, s.shape));
    s.exec.workspace = s.workspace.get();
}

Runner::~Runner() = default;
const ModelSpec& Runner::spec() const noexcept { return state_->spec(); }
const ModelSource& Runner::source() const noexcept { return *state_->source; }
KvEngine& Runner::kv() noexcept { return *state_->kv; }
const Exec& Runner::exec() const noexcept { return state_->exec; }

void Runner::State::step(SeqId seq, std::span<const std::int32_t> tokens, View x) {
    kv->begin_step(seq, static_cast<std::int64_t>(tokens.size()));
    {
        const Lease lease = store->acquire({UnitKind::kEmbedding, 0});
        ops::embed(exec, lease.matrix(0).weight, tokens, spec().embedding_scale, x);
    }
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        const Lease lease = store->acquire({UnitKind::kLayer, static_cast<std::int64_t>(layer)});
        BlockCtx ctx = {exec, lease, *kv, nullptr};
        for (const auto& block : layers[layer]) block->forward(ctx, x);
    }
    kv->end_step();
}

// x: rows whose logits are wanted; `first` is the place of row 0 among all that are.
void Runner::State::head(View x, std::int64_t first, Tap* tap, const LogitsSink& sink) {
    const Lease lease = store->acquire({UnitKind::kHead, 0});
    for (std::int64_t r = 0; r < x.rows; r += shape.logit_rows) {
        const std::int64_t rows = std::min(shape.logit_rows, x.rows - r);
        const WorkspaceScope scope(*workspace);
        const View h = workspace->take_view(exec.dtype(), rows, x.cols);
        ops::rms_norm(exec, x.slice_rows(r, rows), lease.vector(output_norm), spec().norm_epsilon,
                      h);
        if (tap) tap->input(lease.unit(), {&output, 1}, h);
        if (!sink) continue;
        const View out = {logits.data(), exec.dtype(), rows, spec().vocab, spec().vocab};
        apply(exec, h, std::array{lease.matrix(output).into(out)});
        sink(first + r, out);
    }
}

void Runner::State::check(std::span<const std::int32_t> tokens) const {
    for (const std::int32_t token : tokens) {
        if (token >= 0 && token < spec().vocab) continue;
        throw Error(Exit::kBadData, escaped(source->file().path(), 1024),
                    "token " + std::to_string(token) + " is outside the model's vocabulary of " +
                        std::to_string(spec().vocab));
    }
}

void Runner::State::reserve_logits(std::int64_t rows) {
    const std::size_t bytes = logit_bytes(spec(), exec, std::min(shape.logit_rows, rows));
    if (bytes <= logits.bytes()) return;
    logits.reset();
    logits = Buffer(bytes, Purpose::kLogits);
}

bool Runner::sweep(std::span<const std::span<const std::int32_t>> texts, View hidden, Tap* tap,
                   const LayerDone& done) {
    State& s = *state_;
    {
        const Lease lease = s.store->acquire({UnitKind::kEmbedding, 0});
        std::int64_t row = 0;
        for (const auto& text : texts) {
            s.check(text);
            ops::embed(s.exec, lease.matrix(0).weight, text, s.spec().embedding_scale,
                       hidden.slice_rows(row, std::ssize(text)));
            row += std::ssize(text);
        }
    }
    const SeqId seq = s.kv->open();
    bool whole = true;
    for (std::size_t layer = 0; whole && layer < s.layers.size(); ++layer) {
        const Lease lease = s.store->acquire({UnitKind::kLayer, static_cast<std::int64_t>(layer)});
        BlockCtx ctx = {s.exec, lease, *s.kv, tap};
        std::int64_t row = 0;
        for (const auto& text : texts) {
            for (std::int64_t left = std::ssize(text); left > 0;) {
                const std::int64_t count = std::min(s.shape.step_tokens, left);
                s.kv->begin_step(seq, count);
                for (const auto& block : s.layers[layer])
                    block->forward(ctx, hidden.slice_rows(row, count));
                s.kv->end_step();
                row += count;
                left -= count;
            }
            s.kv->truncate(seq, 0);
        }
        whole = !done || done(static_cast<std::int64_t>(layer) + 1);
    }
    s.kv->close(seq);
    return whole;
}

void Runner::head(View hidden, Tap* tap, const LogitsSink& sink) {
    if (sink) state_->reserve_logits(hidden.rows);
    state_->head(hidden, 0, tap, sink);
}

StorePlan Runner::store_plan(const ModelSource& source, const RunnerOptions& options) {
    return plan_store(source, exec_of(options), {options.repack, options.weight_bytes});
}

void Runner::forward(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                     const LogitsSink& sink) {
    State& s = *state_;
    const auto total = static_cast<std::int64_t>(tokens.size());
    s.check(tokens);
    logits = std::clamp<std::int64_t>(logits, 0, total);
    const std::int64_t first_wanted = total - logits;
    s.reserve_logits(logits);
    for (std::int64_t first = 0; first < total; first += s.shape.step_tokens) {
        const std::int64_t count = std::min(s.shape.step_tokens, total - first);
        const WorkspaceScope scope(*s.workspace);
        const View x = s.workspace->take_view(s.exec.dtype(), count, s.spec().hidden);
        s.step(seq,
               tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)), x);
        const std::int64_t skip = std::max<std::int64_t>(first_wanted - first, 0);
        if (skip < count) {
            s.head(x.slice_rows(skip, count - skip), first + skip - first_wanted, nullptr, sink);
        }
    }
}

std::uint64_t Runner::streamed_bytes() const noexcept { return state_->store->streamed_bytes(); }

std::uint64_t Runner::bytes_per_token(std::int64_t context_tokens) const {
    const State& s = *state_;
    const ModelInfo info = s.spec().info();
    const auto policy = make_kv_policy(s.shape.kv.policy, "--kv-policy");
    std::uint64_t bytes = s.store->bytes_per_token();
    for (std::size_t i = 0; i < info.layers.size(); ++i) {
        const AttentionLayer& layer = info.layers[i];
        std::int64_t slots = context_tokens;
        if (layer.window > 0) slots = std::min(slots, layer.window);
        const std::int64_t budget = policy->budget_tokens(info, static_cast<int>(i));
        if (budget > 0) slots = std::min(slots, budget);
        const std::uint64_t row = kv_row_bytes(s.shape.kv.type_k, layer.head_dim, s.exec.device) +
                                  kv_row_bytes(s.shape.kv.type_v, layer.head_dim, s.exec.device);
        bytes += static_cast<std::uint64_t>(slots + 1) * row *
                 static_cast<std::uint64_t>(layer.kv_heads);
    }
    return bytes;
}

void Runner::add_to_plan(Plan& plan, const ModelSource& source, const RunnerOptions& options,
                         std::int64_t tokens, std::int64_t sequences, std::int64_t logits) {
    const ModelSpec& spec = source.spec();
    const Exec exec = exec_of(options);
    const Shape shape = shape_of(spec, options, exec);
    const Layers layers = make_layers(spec, units_of(source));
    const StorePlan store = plan_store(source, exec, {options.repack, options.weight_bytes});

    const std::uint64_t kv =
        static_cast<std::uint64_t>(sequences) *
        KvEngine::predict_bytes(spec.attention, shape.kv, tokens, options.device);
    const std::uint64_t activations =
        Buffer::charged_bytes(workspace_bytes(spec, layers, exec, shape));
    const std::uint64_t rows = Buffer::charged_bytes(
        logit_bytes(spec, exec, std::clamp<std::int64_t>(logits, 0, shape.logit_rows)));
    plan.at(Tier::kRam, Purpose::kWeights) += store.resident_bytes + store.lease_bytes;
    plan.at(Tier::kRam, Purpose::kIo) += store.io_bytes;
    plan.at(Tier::kRam, Purpose::kKv) += kv;
    plan.at(Tier::kRam, Purpose::kActivations) += activations;
    plan.at(Tier::kRam, Purpose::kLogits) += rows;
    // Loading needs a piece of the file before any of the others exist.
    const std::uint64_t later = store.lease_bytes + store.io_bytes + kv + activations + rows;
    if (store.staging_bytes > later) {
        plan.at(Tier::kRam, Purpose::kIo) += store.staging_bytes - later;
    }
}

}  // namespace thimble
