// SPDX-License-Identifier: Apache-2.0
#include "model/runner.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/block.h"
#include "model/device_store.h"

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
    Exec exec;  // on the host
    exec.device = options.device == Device::kCuda ? Device::kCpu : options.device;
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

std::size_t logit_bytes(const ModelSpec& spec, const Exec& exec, std::int64_t rows) {
    return static_cast<std::size_t>(rows * spec.vocab) * size_of(exec.dtype());
}

// What a Runner holds besides weights and KV, and where its layers are computed.
struct Arrangement {
    DevicePlan store;  // no units: all on the host
    KvPlacement kv;
    std::size_t host_workspace = 0, device_workspace = 0, device_logits = 0;

    [[nodiscard]] bool on_device(std::size_t unit) const {
        return unit < store.units.size() && store.units[unit] != UnitPlace::kHost;
    }
    [[nodiscard]] bool any() const {
        return store.count(UnitPlace::kHost) < std::ssize(store.units);
    }
    [[nodiscard]] std::uint64_t device_bytes() const {
        if (!any()) return 0;
        return CudaContext::device_bytes() +
               Buffer::charged_bytes(device_workspace, Place::kDevice) +
               Buffer::charged_bytes(device_logits, Place::kDevice);
    }
};

Exec device_exec(const Exec& host) {
    Exec exec = host;
    exec.device = Device::kCuda;
    return exec;
}

// The residual stream, and over it the hungriest of the blocks and the head.
void add_workspaces(const ModelSpec& spec, const Layers& layers, const Exec& exec,
                    const Shape& shape, Arrangement& layout) {
    const KvEngine::WorkspaceBytes attend =
        KvEngine::workspace_bytes(spec.attention, shape.kv, shape.step_tokens, layout.kv);
    const Exec device = device_exec(exec);
    const bool head_away = layout.on_device(layers.size() + 1);
    const auto head = [&](const Exec& e) {
        return view_bytes(e, shape.logit_rows, spec.hidden) +
               ops::matmul_input_bytes(e, shape.logit_rows, spec.hidden);
    };
    std::size_t host = head_away ? 0 : head(exec), away = head_away ? head(device) : 0;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        const bool here = !layout.on_device(layer + 1);
        const Exec& e = here ? exec : device;
        const BlockPlan plan = {e, shape.step_tokens, here ? attend.host : attend.device};
        std::size_t& peak = here ? host : away;
        for (const auto& block : layers[layer]) peak = std::max(peak, block->workspace_bytes(plan));
        if (!here) host = std::max(host, attend.host);
    }
    const std::size_t x = view_bytes(exec, shape.step_tokens, spec.hidden);
    layout.host_workspace = x + host;
    // Rows whose logits are wanted may come from the host.
    layout.device_workspace =
        layout.any() ? x + away + view_bytes(device, shape.logit_rows, spec.hidden) : 0;
}

// As many tokens' KV on the device as there is room for.
void place_kv(const ModelSpec& spec, const RunnerOptions& options, const Shape& shape,
              std::uint64_t room, Arrangement& layout) {
    constexpr std::int64_t kTile = ops::kAttentionTile;
    const std::int64_t context = shape.kv.context_tokens;
    const std::int64_t wanted =
        options.cuda.tokens > 0 ? std::min(options.cuda.tokens, context) : context;
    const auto set = [&](std::int64_t tiles) {
        for (std::size_t layer = 0; layer < layout.kv.layers.size(); ++layer) {
            KvPlacement::Layer& place = layout.kv.layers[layer];
            place.device_tokens = place.on_device ? tiles * kTile : 0;
        }
    };
    const auto fits = [&](std::int64_t tiles) {
        set(tiles);
        const std::uint64_t bytes =
            KvEngine::predict_device_bytes(spec.attention, shape.kv, layout.kv);
        return bytes * static_cast<std::uint64_t>(options.cuda.sequences) <= room;
    };
    std::int64_t least = 0, most = (wanted + kTile - 1) / kTile;
    while (least < most) {
        const std::int64_t middle = least + (most - least + 1) / 2;
        if (fits(middle)) {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    set(least);
}

Arrangement layout_of(const ModelSource& source, const RunnerOptions& options, const Exec& exec,
                      const Shape& shape, const Layers& layers) {
    const ModelSpec& spec = source.spec();
    Arrangement layout;
    layout.kv.device = options.device == Device::kRef ? Device::kRef : Device::kCpu;
    if (options.device == Device::kCuda) {
        const std::int64_t wanted = options.cuda.layers < 0
                                        ? std::ssize(layers)
                                        : std::min(options.cuda.layers, std::ssize(layers));
        // Sizes besides the weights do not depend on which of the units stay.
        layout.store = plan_device_store(source, exec, options.repack, wanted, UINT64_MAX);
        layout.kv.layers.resize(layers.size());
        for (std::size_t layer = 0; layer < layers.size(); ++layer)
            layout.kv.layers[layer].on_device = layout.on_device(layer + 1);
        if (layout.on_device(layers.size() + 1))
            layout.device_logits = logit_bytes(spec, exec, shape.logit_rows);
        add_workspaces(spec, layers, exec, shape, layout);
        const std::uint64_t vram = options.cuda.vram_bytes, fixed = layout.device_bytes();
        layout.store = plan_device_store(source, exec, options.repack, wanted,
                                         vram > fixed ? vram - fixed : 0);
        const std::uint64_t used = fixed + layout.store.device_bytes();
        place_kv(spec, options, shape, vram > used ? vram - used : 0, layout);
    }
    add_workspaces(spec, layers, exec, shape, layout);
    return layout;
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
    Exec exec, device;  // on the host; on the CUDA device
    Shape shape;
    std::vector<UnitSpec> units;
    Layers layers;
    Arrangement layout;
    std::unique_ptr<CudaContext> cuda;
    std::unique_ptr<WeightStore> store;
    std::unique_ptr<KvEngine> kv;
    std::unique_ptr<Workspace> workspace, device_workspace;
    Buffer logits, device_logits;
    std::size_t output = 0, output_norm = 0;  // roles in the head's unit

    [[nodiscard]] const ModelSpec& spec() const { return source->spec(); }
    // Where unit `unit` is computed.
    [[nodiscard]] const Exec& exec_of_unit(std::size_t unit) const {
        return layout.on_device(unit) ? device : exec;
    }
    // The residual stream of a step: rows in host memory and, with a device, room for them there.
    struct Residual {
        View host, device;
        bool away = false;  // the device's copy is the current one
    };
    [[nodiscard]] Residual take_residual(std::int64_t rows) const;
    View bring(Residual& x, bool to_device) const;
    void step(SeqId seq, std::span<const std::int32_t> tokens, Residual& x);
    void run_layer(std::size_t layer, Residual& x);
    // A layer over rows in host memory.
    void run_rows(BlockCtx& ctx, std::size_t layer, View rows) const;
    void check(std::span<const std::int32_t> tokens) const;
    void head(View x, bool away, std::int64_t first, Tap* tap, const LogitsSink& sink);
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
    s.layout = layout_of(*s.source, options, s.exec, s.shape, s.layers);
    if (options.device == Device::kCuda && !s.layout.any()) (void)cuda_device();
    if (s.layout.any()) {
        s.cuda = std::make_unique<CudaContext>(s.exec);
        s.store = make_device_store(*s.source, *s.cuda, options.repack, s.layout.store);
        s.device = device_exec(s.exec);
        s.device.cuda = s.cuda.get();
        s.device_workspace = std::make_unique<Workspace>(s.layout.device_workspace, Place::kDevice);
        s.device.workspace = s.device_workspace.get();
        s.device_logits = Buffer(s.layout.device_logits, Purpose::kLogits, Place::kDevice);
    } else {
        s.store = make_store(*s.source, s.exec, {options.repack, options.weight_bytes});
    }
    s.kv = std::make_unique<KvEngine>(s.spec().attention, s.shape.kv, s.layout.kv);
    s.workspace = std::make_unique<Workspace>(s.layout.host_workspace);
    s.exec.workspace = s.workspace.get();
    if (s.cuda) s.cuda->set_host_workspace(s.workspace.get());
}

Runner::~Runner() = default;
const ModelSpec& Runner::spec() const noexcept { return state_->spec(); }
const ModelSource& Runner::source() const noexcept { return *state_->source; }
KvEngine& Runner::kv() noexcept { return *state_->kv; }
const Exec& Runner::exec() const noexcept { return state_->exec; }

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
    if (!layout.on_device(layer + 1)) {
        for (const auto& block : layers[layer]) block->forward(ctx, x);
        return;
    }
    const WorkspaceScope scope(*device_workspace);
    x = device_workspace->take_view(device.dtype(), rows.rows, rows.cols);
    ops::copy_to_device(device, rows, x);
    for (const auto& block : layers[layer]) block->forward(ctx, x);
    ops::copy_to_host(device, x, rows);
}

void Runner::State::run_layer(std::size_t layer, Residual& x) {
    const Lease lease = store->acquire({UnitKind::kLayer, static_cast<std::int64_t>(layer)});
    BlockCtx ctx = {exec_of_unit(layer + 1), lease, *kv, nullptr};
    const View rows = bring(x, layout.on_device(layer + 1));
    for (const auto& block : layers[layer]) block->forward(ctx, rows);
}

void Runner::State::step(SeqId seq, std::span<const std::int32_t> tokens, Residual& x) {
    kv->begin_step(seq, static_cast<std::int64_t>(tokens.size()));
    {
        const Lease lease = store->acquire({UnitKind::kEmbedding, 0});
        ops::embed(exec, lease.matrix(0).weight, tokens, spec().embedding_scale, x.host);
    }
    for (std::size_t layer = 0; layer < layers.size(); ++layer) run_layer(layer, x);
    kv->end_step();
}

// x: rows whose logits are wanted, on the device if `away`; `first` is the place of row 0 among all
// that are.
void Runner::State::head(View x, bool away, std::int64_t first, Tap* tap, const LogitsSink& sink) {
    const Lease lease = store->acquire({UnitKind::kHead, 0});
    const bool on_device = layout.on_device(units.size() - 1);
    const Exec& where = on_device ? device : exec;
    for (std::int64_t r = 0; r < x.rows; r += shape.logit_rows) {
        const std::int64_t rows = std::min(shape.logit_rows, x.rows - r);
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
        if (tap) tap->input(lease.unit(), {&output, 1}, h);
        if (!sink) continue;
        const View out = {logits.data(), exec.dtype(), rows, spec().vocab, spec().vocab};
        View computed = out;
        if (on_device) computed.data = device_logits.data();
        apply(where, h, std::array{lease.matrix(output).into(computed)});
        if (on_device) ops::copy_to_host(device, computed, out);
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
        BlockCtx ctx = {s.exec_of_unit(layer + 1), lease, *s.kv, tap};
        std::int64_t row = 0;
        for (const auto& text : texts) {
            for (std::int64_t left = std::ssize(text); left > 0;) {
                const std::int64_t count = std::min(s.shape.step_tokens, left);
                s.kv->begin_step(seq, count);
                s.run_rows(ctx, layer, hidden.slice_rows(row, count));
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
    state_->head(hidden, false, 0, tap, sink);
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
        const WorkspaceScope scope(*s.workspace),
            device_scope(s.cuda ? *s.device_workspace : *s.workspace);
        State::Residual x = s.take_residual(count);
        s.step(seq,
               tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)), x);
        const std::int64_t skip = std::max<std::int64_t>(first_wanted - first, 0);
        if (skip < count) {
            s.head((x.away ? x.device : x.host).slice_rows(skip, count - skip), x.away,
                   first + skip - first_wanted, nullptr, sink);
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

std::string Runner::describe_placement(const ModelSource& source, const RunnerOptions& options) {
    if (options.device != Device::kCuda) return {};
    const Exec exec = exec_of(options);
    const Shape shape = shape_of(source.spec(), options, exec);
    const Layers layers = make_layers(source.spec(), units_of(source));
    const Arrangement layout = layout_of(source, options, exec, shape, layers);
    const std::size_t head = layers.size() + 1;
    std::int64_t streamed = layout.store.count(UnitPlace::kStreamed), device = 0;
    for (std::size_t u = 1; u < head; ++u) device += layout.on_device(u) ? 1 : 0;
    std::int64_t least = shape.kv.context_tokens;
    for (const KvPlacement::Layer& layer : layout.kv.layers) {
        if (layer.on_device) least = std::min(least, layer.device_tokens);
    }
    std::string text = std::to_string(device) + " of " + std::to_string(layers.size()) +
                       " layers on the CUDA device" +
                       (layout.on_device(head) ? " and the head" : "");
    if (streamed > 0)
        text += ", " + std::to_string(streamed) + " of these streamed from host memory";
    if (device > 0) text += "; KV of the first " + std::to_string(least) + " tokens on the device";
    return text;
}

void Runner::add_to_plan(Plan& plan, const ModelSource& source, const RunnerOptions& options,
                         std::int64_t tokens, std::int64_t sequences, std::int64_t logits) {
    const ModelSpec& spec = source.spec();
    const Exec exec = exec_of(options);
    const Shape shape = shape_of(spec, options, exec);
    const Layers layers = make_layers(spec, units_of(source));
    const Arrangement layout = layout_of(source, options, exec, shape, layers);
    StorePlan store;
    if (layout.any()) {
        store.resident_bytes = layout.store.host_bytes + layout.store.pinned_bytes;
        store.staging_bytes = layout.store.staging_bytes;
        const std::uint64_t device_kv =
            static_cast<std::uint64_t>(sequences) *
            KvEngine::predict_device_bytes(spec.attention, shape.kv, layout.kv);
        plan.at(Tier::kVram, Purpose::kWeights) += layout.store.device_bytes();
        plan.at(Tier::kVram, Purpose::kKv) += device_kv;
        plan.at(Tier::kVram, Purpose::kActivations) +=
            Buffer::charged_bytes(layout.device_workspace, Place::kDevice);
        plan.at(Tier::kVram, Purpose::kLogits) +=
            Buffer::charged_bytes(layout.device_logits, Place::kDevice);
        plan.at(Tier::kVram, Purpose::kOther) += cuda::Blas::kWorkspaceBytes;
        plan.at(Tier::kVram, Purpose::kIo) +=
            CudaContext::device_bytes() - cuda::Blas::kWorkspaceBytes;
        plan.at(Tier::kRam, Purpose::kIo) += CudaContext::pinned_bytes();
    } else {
        store = plan_store(source, exec, {options.repack, options.weight_bytes});
    }
    const std::uint64_t kv = static_cast<std::uint64_t>(sequences) *
                             KvEngine::predict_bytes(spec.attention, shape.kv, tokens, layout.kv);
    const std::uint64_t activations = Buffer::charged_bytes(layout.host_workspace);
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
