// SPDX-License-Identifier: Apache-2.0
#include "model/runner.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "format/weight_format.h"
#include "kv/chain.h"
#include "model/fingerprint.h"
#include "model/runner_plan.h"
#include "model/stacked_store.h"
#include "ops/op_clock.h"
#include "ops/read_ahead.h"

namespace thimble {
namespace {

// Encoded bytes of one row of head_dim keys or values.
std::uint64_t kv_row_bytes(std::string_view type, std::int64_t head_dim, Device device) {
    if (device == Device::kRef) return static_cast<std::uint64_t>(head_dim) * sizeof(double);
    return ops::packed_bytes(weight_formats().get(type, "--cache-type").info().layout,
                             {1, head_dim});
}

}  // namespace

struct Runner::State {
    State(std::unique_ptr<ModelSource> from, const RunnerOptions& options)
        : source(std::move(from)), plan(*source, options), exec(plan.exec) {}

    std::unique_ptr<ModelSource> source;
    RunnerPlan plan;
    Exec exec, device;  // on the host; on the CUDA device
    std::unique_ptr<CudaContext> cuda;
    std::unique_ptr<WeightStore> store;
    StackedStore* stacked = nullptr;  // of the store, or what it adapts
    std::unique_ptr<KvEngine> kv;
    Encode encode;
    std::unique_ptr<Workspace> workspace, device_workspace;
    ReadAhead ahead;
    Buffer logits, device_logits;
    std::size_t output = 0, output_norm = 0;  // roles in the head's unit

    [[nodiscard]] const ModelSpec& spec() const { return source->spec(); }
    // Where unit `unit` is computed.
    [[nodiscard]] const Exec& exec_of_unit(std::size_t unit) const {
        return plan.on_device(unit) ? device : exec;
    }
    // The residual stream of a step: rows in host memory and, with a device, room for them there.
    struct Residual {
        View host, device;
        bool away = false;  // the device's copy is the current one
    };
    // Layers that do not stay are read from disk.
    [[nodiscard]] Lease acquire(UnitId unit) const;
    [[nodiscard]] Residual take_residual(std::int64_t rows) const;
    View bring(Residual& x, bool to_device) const;
    void step(std::span<const std::int32_t> tokens, Residual& x);  // that the KV engine has begun
    void run_layer(std::size_t layer, Residual& x);
    // A layer over rows in host memory.
    void run_rows(BlockCtx& ctx, std::size_t layer, View rows) const;
    // Any number of tokens, into rows in host memory.
    void embed_rows(const PackedView& table, std::span<const std::int32_t> tokens, View rows) const;
    void check(std::span<const std::int32_t> tokens) const;
    [[nodiscard]] View embed_prompt(const Buffer& memory,
                                    std::span<const std::int32_t> tokens) const;
    void prompt_layer(SeqId seq, std::size_t layer, View hidden);
    [[nodiscard]] std::vector<std::int32_t> filter_prompt(std::span<const std::int32_t> tokens);
    // What to do with logits: hand them on, or only the largest (of one row, from a device).
    struct Wanted {
        Tap* tap = nullptr;
        const LogitsSink* sink = nullptr;
        std::span<float> top = {};
        std::span<std::int32_t> places = {};
    };
    void head(View x, bool away, std::int64_t first, const Wanted& wanted);
    void forward(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                 const Wanted& wanted);
    void reserve_logits(std::int64_t rows);
};

namespace {

// What a policy knows of a model is good for its other forms, too; for other models it is not.
void warn_of_other_models(const ModelSource& source, const std::string& policy) {
    for (const KvPolicy::Measured& one : KvChain::parse(policy, "--kv-policy").measured()) {
        if (one.model == fingerprint(source)) continue;
        log_warning(escaped(one.file, 1024) +
                    ": was measured on another model, or on another form of this one");
    }
}

}  // namespace

Runner::Runner(std::unique_ptr<ModelSource> source, const RunnerOptions& options, Team& team)
    : state_(std::make_unique<State>(std::move(source), options)) {
    State& s = *state_;
    const RunnerPlan& plan = s.plan;
    s.output = plan.units.back().matrix("output");
    s.output_norm = plan.units.back().vector("output_norm");
    s.exec.team = &team;
    s.exec.ahead = &s.ahead;
    if (options.device == Device::kCuda && !plan.any_on_device()) (void)cuda_device();
    if (plan.any_on_device()) {
        s.cuda = std::make_unique<CudaContext>(s.exec);
        s.store = make_device_store(*s.source, *s.cuda, options.repack, plan.device);
        s.device = device_exec(s.exec);
        s.device.cuda = s.cuda.get();
        s.device_workspace = std::make_unique<Workspace>(plan.device_workspace, Place::kDevice);
        s.device.workspace = s.device_workspace.get();
        s.device_logits = Buffer(plan.device_logits, Purpose::kLogits, Place::kDevice);
    } else {
        s.store = options.store
                      ? options.store(*s.source, s.exec)
                      : make_store(*s.source, s.exec, {options.repack, options.weight_bytes});
        s.stacked = dynamic_cast<StackedStore*>(s.store.get());
        s.store = make_adapted_store(std::move(s.store), *s.source, s.exec, options.adapters);
    }
    warn_of_other_models(*s.source, plan.kv.policy);
    s.kv = std::make_unique<KvEngine>(s.spec().state_layers(), plan.kv, plan.places);
    s.workspace = std::make_unique<Workspace>(plan.host_workspace);
    s.exec.workspace = s.workspace.get();
    if (s.cuda) s.cuda->set_host_workspace(s.workspace.get());
}

Runner::~Runner() = default;
const ModelSpec& Runner::spec() const noexcept { return state_->spec(); }
const ModelSource& Runner::source() const noexcept { return *state_->source; }
KvEngine& Runner::kv() noexcept { return *state_->kv; }
const Exec& Runner::exec() const noexcept { return state_->exec; }

void Runner::set_clock(OpClock* clock) noexcept { state_->exec.clock = clock; }

void Runner::each_matrix(const std::function<bool(const PackedView&)>& see) {
    State& s = *state_;
    for (std::size_t u = 1; u < s.plan.units.size(); ++u) {
        const bool head = u + 1 == s.plan.units.size();
        const Lease lease = s.store->acquire({head ? UnitKind::kHead : UnitKind::kLayer,
                                              head ? 0 : static_cast<std::int64_t>(u) - 1});
        for (std::size_t i = 0; i < s.plan.units[u].matrices.size(); ++i) {
            const Linear& linear = lease.matrix(i);
            if (linear.factors) {
                if (!see(linear.factors->a) || !see(linear.factors->b)) return;
            } else if (linear.stack == nullptr && linear.skips == Skips::kNothing) {
                if (!see(linear.weight)) return;
            }
            for (const LowRank& term : linear.low_rank)
                if (!see(term.a) || !see(term.b)) return;
        }
    }
}

Lease Runner::State::acquire(UnitId unit) const {
    if (store->streamed_bytes() == 0) return store->acquire(unit);
    const ops::Timed timed(exec, "weights from disk");
    return store->acquire(unit);
}

Runner::State::Residual Runner::State::take_residual(std::int64_t rows) const {
    Residual x;
    x.host = workspace->take_view(exec.dtype(), rows, spec().hidden);
    if (cuda) x.device = device_workspace->take_view(device.dtype(), rows, spec().hidden);
    return x;
}

// The residual stream on the side where it is needed.
View Runner::State::bring(Residual& x, bool to_device) const {
    if (to_device != x.away) {
        if (to_device) {
            ops::copy_to_device(device, x.host, x.device);
        } else {
            ops::copy_to_host(device, x.device, x.host);
        }
        x.away = to_device;
    }
    return to_device ? x.device : x.host;
}

void Runner::State::run_rows(BlockCtx& ctx, std::size_t layer, View rows) const {
    View x = rows;
    if (!plan.on_device(layer + 1)) {
        for (const auto& block : plan.layers[layer]) block->forward(ctx, x);
        return;
    }
    const WorkspaceScope scope(*device_workspace);
    x = device_workspace->take_view(device.dtype(), rows.rows, rows.cols);
    ops::copy_to_device(device, rows, x);
    for (const auto& block : plan.layers[layer]) block->forward(ctx, x);
    ops::copy_to_host(device, x, rows);
}

void Runner::State::embed_rows(const PackedView& table, std::span<const std::int32_t> tokens,
                               View rows) const {
    if (!plan.on_device(0)) return ops::embed(exec, table, tokens, spec().embedding_scale, rows);
    for (std::int64_t first = 0; first < rows.rows; first += plan.step_tokens) {
        const std::int64_t count = std::min(plan.step_tokens, rows.rows - first);
        const WorkspaceScope scope(*device_workspace);
        const View x = device_workspace->take_view(device.dtype(), count, rows.cols);
        ops::embed(device, table,
                   tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
                   spec().embedding_scale, x);
        ops::copy_to_host(device, x, rows.slice_rows(first, count));
    }
}

void Runner::State::run_layer(std::size_t layer, Residual& x) {
    const Lease lease = acquire({UnitKind::kLayer, static_cast<std::int64_t>(layer)});
    BlockCtx ctx = {exec_of_unit(layer + 1), lease, *kv, nullptr};
    const View rows = bring(x, plan.on_device(layer + 1));
    for (const auto& block : plan.layers[layer]) block->forward(ctx, rows);
}

void Runner::State::step(std::span<const std::int32_t> tokens, Residual& x) {
    {
        const Lease lease = store->acquire({UnitKind::kEmbedding, 0});
        x.away = plan.on_device(0);
        ops::embed(exec_of_unit(0), lease.matrix(0).weight, tokens, spec().embedding_scale,
                   x.away ? x.device : x.host);
    }
    for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) run_layer(layer, x);
    kv->end_step();
}

// x: rows whose logits are wanted, on the device if `away`; `first` is the place of row 0 among all
// that are.
void Runner::State::head(View x, bool away, std::int64_t first, const Wanted& wanted) {
    const Lease lease = store->acquire({UnitKind::kHead, 0});
    const bool on_device = plan.on_device(plan.units.size() - 1);
    const Exec& where = on_device ? device : exec;
    for (std::int64_t r = 0; r < x.rows; r += plan.logit_rows) {
        const std::int64_t rows = std::min(plan.logit_rows, x.rows - r);
        const WorkspaceScope scope(*where.workspace);
        View from = x.slice_rows(r, rows);
        if (away != on_device) {
            const View here = where.workspace->take_view(where.dtype(), rows, x.cols);
            on_device ? ops::copy_to_device(device, from, here)
                      : ops::copy_to_host(device, from, here);
            from = here;
        }
        const View h = where.workspace->take_view(where.dtype(), rows, x.cols);
        ops::rms_norm(where, from, lease.vector(output_norm), spec().norm_epsilon, h);
        if (wanted.tap) show_input(*wanted.tap, where, lease, {&output, 1}, h);
        if (wanted.sink == nullptr && wanted.top.empty()) continue;
        const View out = {logits.data(), exec.dtype(), rows, spec().vocab, spec().vocab};
        View computed = out;
        if (on_device) computed.data = device_logits.data();
        apply(where, h, std::array{lease.matrix(output).into(computed)});
        if (!wanted.top.empty()) {
            ops::top_k(where, computed, wanted.top, wanted.places);
            continue;
        }
        if (on_device) ops::copy_to_host(device, computed, out);
        (*wanted.sink)(first + r, out);
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
    const std::size_t bytes = plan.logit_bytes(std::min(plan.logit_rows, rows));
    if (bytes <= logits.bytes()) return;
    logits.reset();
    logits = Buffer(bytes, Purpose::kLogits);
}

void Runner::embed(Texts texts, View hidden) {
    State& s = *state_;
    const Lease lease = s.store->acquire({UnitKind::kEmbedding, 0});
    std::int64_t row = 0;
    for (const auto& text : texts) {
        s.check(text);
        s.embed_rows(lease.matrix(0).weight, text, hidden.slice_rows(row, std::ssize(text)));
        row += std::ssize(text);
    }
}

void Runner::sweep_layer(std::int64_t layer, Texts texts, View hidden, Tap* tap) {
    State& s = *state_;
    const auto index = static_cast<std::size_t>(layer);
    const Lease lease = s.store->acquire({UnitKind::kLayer, layer});
    BlockCtx ctx = {s.exec_of_unit(index + 1), lease, *s.kv, tap};
    const SeqId seq = s.kv->open();
    std::int64_t row = 0;
    for (const auto& text : texts) {
        for (std::int64_t left = std::ssize(text); left > 0;) {
            const std::int64_t count = std::min(s.plan.step_tokens, left);
            s.kv->begin_step(seq, count);
            s.run_rows(ctx, index, hidden.slice_rows(row, count));
            s.kv->end_step();
            row += count;
            left -= count;
        }
        s.kv->truncate(seq, 0);
    }
    s.kv->close(seq);
}

bool Runner::sweep(Texts texts, View hidden, Tap* tap, const LayerDone& done) {
    embed(texts, hidden);
    bool whole = true;
    for (std::int64_t layer = 0; whole && layer < spec().layers; ++layer) {
        sweep_layer(layer, texts, hidden, tap);
        whole = !done || done(layer + 1);
    }
    return whole;
}

void Runner::head(View hidden, Tap* tap, const LogitsSink& sink) {
    if (sink) state_->reserve_logits(hidden.rows);
    state_->head(hidden, false, 0, {.tap = tap, .sink = sink ? &sink : nullptr});
}

void Runner::State::forward(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t count,
                            const Wanted& wanted) {
    const auto total = static_cast<std::int64_t>(tokens.size());
    check(tokens);
    const std::int64_t first_wanted = total - count;
    reserve_logits(count);
    for (std::int64_t first = 0; first < total; first += plan.step_tokens) {
        const std::int64_t rows = std::min(plan.step_tokens, total - first);
        const WorkspaceScope scope(*workspace), device_scope(cuda ? *device_workspace : *workspace);
        Residual x = take_residual(rows);
        kv->begin_step(seq, rows);
        step(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)), x);
        const std::int64_t skip = std::max<std::int64_t>(first_wanted - first, 0);
        if (skip < rows) {
            head((x.away ? x.device : x.host).slice_rows(skip, rows - skip), x.away,
                 first + skip - first_wanted, wanted);
        }
    }
}

void Runner::forward(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                     const LogitsSink& sink) {
    state_->forward(seq, tokens, std::clamp<std::int64_t>(logits, 0, std::ssize(tokens)),
                    {.sink = sink ? &sink : nullptr});
}

View Runner::State::embed_prompt(const Buffer& memory, std::span<const std::int32_t> tokens) const {
    const View hidden = {const_cast<std::byte*>(memory.data()), exec.dtype(), std::ssize(tokens),
                         spec().hidden, spec().hidden};
    const Lease lease = store->acquire({UnitKind::kEmbedding, 0});
    embed_rows(lease.matrix(0).weight, tokens, hidden);
    return hidden;
}

// All rows of a prompt through one layer.
void Runner::State::prompt_layer(SeqId seq, std::size_t layer, View hidden) {
    const Lease lease = acquire({UnitKind::kLayer, static_cast<std::int64_t>(layer)});
    BlockCtx ctx = {exec, lease, *kv, nullptr};
    for (std::int64_t first = 0; first < hidden.rows; first += plan.step_tokens) {
        const std::int64_t count = std::min(plan.step_tokens, hidden.rows - first);
        kv->begin_layer_step(seq, first, count);
        run_rows(ctx, layer, hidden.slice_rows(first, count));
        kv->end_step();
    }
}

// The tokens that the policy lets the model read.
std::vector<std::int32_t> Runner::State::filter_prompt(std::span<const std::int32_t> tokens) {
    const auto total = std::ssize(tokens);
    const auto last = static_cast<std::size_t>(kv->filter_layer());
    const Buffer memory(view_bytes(exec, total, spec().hidden), Purpose::kActivations);
    const View hidden = embed_prompt(memory, tokens);
    const SeqId seq = kv->open();
    for (std::size_t layer = 0; layer <= last; ++layer) {
        prompt_layer(seq, layer, hidden);
        if (layer < last) kv->forget_layer(seq, static_cast<int>(layer));
    }
    std::vector<std::int32_t> chosen;
    for (const std::int32_t place : kv->filter(exec, seq, total))
        chosen.push_back(tokens[static_cast<std::size_t>(place)]);
    kv->close(seq);
    return chosen;
}

void Runner::set_encoder(Encode encode) { state_->encode = std::move(encode); }

void Runner::end_prompt(SeqId seq, std::span<const std::int32_t> tokens) {
    learn_prompt(seq, tokens);
    state_->kv->end_prompt(state_->exec, seq);
}

void Runner::learn_prompt(SeqId seq, std::span<const std::int32_t> tokens) {
    State& s = *state_;
    const std::int64_t piece = s.kv->repeat_tokens(), total = std::ssize(tokens);
    const std::int64_t before = s.kv->tokens(seq) - total;  // earlier prompts and answers
    for (std::int64_t first = 0; piece > 0 && first < total; first += piece) {
        if (!s.encode) throw Error(Exit::kFailure, "kvzip", "the runner has no encoder");
        const std::int64_t end = std::min(first + piece, total);
        std::vector<std::int32_t> text =
            s.encode(first == 0 ? "\n\nRepeat the text above word for word:\n"
                                : "\n\nRepeat the part of the text above that goes on from these "
                                  "words:");
        constexpr std::int64_t kLead = 8;  // the last tokens of the piece before
        for (std::int64_t i = std::max<std::int64_t>(first - kLead, 0); i < end; ++i)
            text.push_back(tokens[static_cast<std::size_t>(i)]);
        const SeqId probe = s.kv->fork(seq);
        s.kv->begin_repeat(probe, before + first, before + end);
        forward(probe, text, 0, {});
        s.kv->end_repeat(seq, probe);
    }
}

void Runner::prompt(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                    const LogitsSink& sink) {
    State& s = *state_;
    s.kv->begin_prompt(seq);
    s.check(tokens);
    std::vector<std::int32_t> chosen;
    if (s.kv->filter_layer() >= 0 && s.kv->tokens(seq) == 0) {
        chosen = s.filter_prompt(tokens);
        tokens = chosen;
    }
    if (!s.kv->edits_by_layer()) {
        forward(seq, tokens, logits, sink);
        end_prompt(seq, tokens);
        return;
    }
    const auto total = std::ssize(tokens);
    const Buffer memory(view_bytes(s.exec, total, s.spec().hidden), Purpose::kActivations);
    const View hidden = s.embed_prompt(memory, tokens);
    const std::int64_t seen = s.kv->tokens(seq) + total;
    for (std::size_t layer = 0; layer < s.plan.layers.size(); ++layer) {
        s.prompt_layer(seq, layer, hidden);
        s.kv->end_layer(s.exec, seq, static_cast<int>(layer), seen);
    }
    s.kv->end_layers(seq, seen);
    const std::int64_t wanted = std::clamp<std::int64_t>(logits, 0, total);
    if (wanted == 0) return;
    s.reserve_logits(wanted);
    s.head(hidden.slice_rows(total - wanted, wanted), false, 0, {.sink = sink ? &sink : nullptr});
}

void Runner::forward_shared(const std::vector<std::vector<SeqId>>& views,
                            std::span<const std::int32_t> tokens, const LogitsSink& sink) {
    State& s = *state_;
    s.check(tokens);
    const auto rows = std::ssize(tokens);
    s.reserve_logits(rows);
    const WorkspaceScope scope(*s.workspace);
    State::Residual x = s.take_residual(rows);
    s.kv->begin_shared_step(views);
    s.step(tokens, x);
    s.head(x.host, false, 0, {.sink = &sink});
}

std::int64_t Runner::most_top() const noexcept {
    const RunnerPlan& plan = state_->plan;
    if (!plan.on_device(plan.units.size() - 1)) return 0;
    return std::min(ops::kMostTop, state_->spec().vocab);
}

void Runner::forward_top(SeqId seq, std::span<const std::int32_t> tokens, std::span<float> logits,
                         std::span<std::int32_t> places) {
    state_->forward(seq, tokens, 1, {.top = logits, .places = places});
}

StackedStore* Runner::stacked() noexcept { return state_->stacked; }
std::uint64_t Runner::streamed_bytes() const noexcept { return state_->store->streamed_bytes(); }

std::uint64_t Runner::bytes_per_token(std::int64_t context_tokens) const {
    const State& s = *state_;
    const ModelInfo info = s.spec().info();
    std::uint64_t bytes = s.store->bytes_per_token();
    for (const RecurrentLayer& layer : s.spec().recurrent)  // the old state, and the new one
        bytes += 2 * view_bytes(s.exec, 1, layer.channels);
    for (std::size_t i = 0; i < info.layers.size(); ++i) {
        const AttentionLayer& layer = info.layers[i];
        std::int64_t slots = context_tokens;
        const std::int64_t read = s.kv->read_tokens(static_cast<int>(i), context_tokens);
        if (read > 0) slots = std::min(slots, read);
        const std::uint64_t row = kv_row_bytes(s.plan.kv.type_k, layer.head_dim, s.exec.device) +
                                  kv_row_bytes(s.plan.kv.type_v, layer.head_dim, s.exec.device);
        bytes += static_cast<std::uint64_t>(slots + 1) * row *
                 static_cast<std::uint64_t>(layer.kv_heads);
    }
    return bytes;
}

}  // namespace thimble
