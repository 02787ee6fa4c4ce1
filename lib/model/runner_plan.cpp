// SPDX-License-Identifier: Apache-2.0
#include "model/runner_plan.h"

#include <algorithm>

#include "core/error.h"
#include "model/factored_tensor.h"
#include "model/stacked_tensor.h"

namespace thimble {
namespace {

constexpr std::size_t kLogitBytes = std::size_t{32} << 20;

bool in_planes(const UnitSpec& unit) {
    return std::ranges::any_of(unit.matrices, [](const UnitSpec::Matrix& m) {
        return m.weight->layout() == LayoutId::k_bipolar;
    });
}

// What the CPU would do with these activations and a CUDA device does not.
void refuse_activations(Activations activations, const std::vector<UnitSpec>& units) {
    if (activations == Activations::kI8Token) {
        throw Error(Exit::kUsage, "--activations i8-token",
                    "a CUDA device has no products of bytes with one scale for a token",
                    "use --activations auto, or --device cpu");
    }
    const int bits = plane_bits(activations);
    if (bits != 0 && std::ranges::none_of(units, in_planes)) {
        throw Error(Exit::kUsage, "--activations b" + std::to_string(bits),
                    "none of the model's weights are in bit planes",
                    "make them so by quantize --format bipolar; or use --activations auto");
    }
}

}  // namespace

RunnerPlan::RunnerPlan(const ModelSource& source, const RunnerOptions& options)
    : kv(options.kv),
      units(units_of(source)),
      adapters(options.adapters),
      spec_(&source.spec()),
      largest_rank_(largest_rank(source)) {
    if (!adapters.empty() && !source.thresholds().empty()) {
        throw Error(Exit::kUsage, "--lora",
                    "the model's feed-forward blocks drop small activations, which adapters do not "
                    "know of",
                    "run it without: --act-sparsity off; or merge first: quantize --lora");
    }
    if (options.device == Device::kCuda && !adapters.empty()) {
        throw Error(Exit::kUsage, "--lora", "adapters are not applied on a CUDA device",
                    "merge it into the model first: quantize --lora; or use --device cpu");
    }
    if (options.device == Device::kCuda && !spec_->recurrent.empty()) {
        throw Error(Exit::kUsage, "--device",
                    "there are no kernels of recurrent layers on a CUDA device",
                    "use --device cpu");
    }
    if (options.device == Device::kCuda && any_stacked(source)) {
        throw Error(Exit::kUsage, "--device",
                    "there are no kernels of matrices in blocks (bitstack) on a CUDA device",
                    "use --device cpu");
    }
    if (options.device == Device::kCuda) refuse_activations(options.activations, units);
    exec.device = options.device == Device::kCuda ? Device::kCpu : options.device;
    exec.isa = options.isa;
    // Coded inputs are floats, whatever is asked.
    exec.activations = spec_->input_norm_epsilon > 0 ? Activations::kF32 : options.activations;
    if (kv.context_tokens <= 0) kv.context_tokens = spec_->context_tokens;
    step_tokens = std::clamp<std::int64_t>(options.step_tokens, 1, kv.context_tokens);
    const std::size_t row = view_bytes(exec, 1, spec_->vocab);
    logit_rows =
        options.logit_rows > 0 ? options.logit_rows : static_cast<std::int64_t>(kLogitBytes / row);
    logit_rows = std::clamp<std::int64_t>(logit_rows, 1, step_tokens);
    for (int layer = 0; layer < static_cast<int>(spec_->layers); ++layer) {
        const UnitSpec& unit = units[static_cast<std::size_t>(layer) + 1];
        auto& blocks = layers.emplace_back();
        for (const std::string& kind : spec_->sublayers)
            blocks.push_back(make_block(kind, {*spec_, unit, layer}));
    }
    places.device = exec.device;
    if (options.device == Device::kCuda) place_units(source, options);
    add_workspaces();
}

std::uint64_t RunnerPlan::fixed_device_bytes() const noexcept {
    if (!any_on_device()) return 0;
    return CudaContext::device_bytes() + Buffer::charged_bytes(device_workspace, Place::kDevice) +
           Buffer::charged_bytes(device_logits, Place::kDevice);
}

void RunnerPlan::place_units(const ModelSource& source, const RunnerOptions& options) {
    const std::int64_t all = std::ssize(layers);
    const std::int64_t wanted = options.cuda.layers < 0 ? all : std::min(options.cuda.layers, all);
    // Sizes besides the weights do not depend on which of the units stay.
    device = plan_device_store(source, exec, options.repack, wanted, UINT64_MAX);
    for (std::size_t layer = 0; layer < layers.size(); ++layer)
        places.layers.push_back({.on_device = on_device(layer + 1)});
    if (on_device(units.size() - 1)) device_logits = logit_bytes(logit_rows);
    add_workspaces();
    const std::uint64_t vram = options.cuda.vram_bytes, fixed = fixed_device_bytes();
    device =
        plan_device_store(source, exec, options.repack, wanted, vram > fixed ? vram - fixed : 0);
    const std::uint64_t used = fixed + device.device_bytes();
    place_kv(options.cuda, vram > used ? vram - used : 0);
}

// As many tokens' KV on the device as there is room for.
void RunnerPlan::place_kv(const CudaOptions& options, std::uint64_t room) {
    constexpr std::int64_t kTile = ops::kAttentionTile;
    const std::int64_t context = kv.context_tokens;
    const std::int64_t wanted = options.tokens > 0 ? std::min(options.tokens, context) : context;
    const auto set = [&](std::int64_t tiles) {
        for (std::size_t layer = 0; layer < places.layers.size(); ++layer) {
            KvPlacement::Layer& place = places.layers[layer];
            place.device_tokens = place.on_device ? tiles * kTile : 0;
        }
    };
    const auto fits = [&](std::int64_t tiles) {
        set(tiles);
        const std::uint64_t bytes =
            KvEngine::predict_device_bytes(spec_->state_layers(), kv, places);
        return bytes * static_cast<std::uint64_t>(options.sequences) <= room;
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

// The residual stream, and over it the hungriest of the blocks and the head.
void RunnerPlan::add_workspaces() {
    const KvEngine::WorkspaceBytes attend =
        KvEngine::workspace_bytes(spec_->state_layers(), kv, step_tokens, places);
    const Exec away = device_exec(exec);
    const auto head = [&](const Exec& e, std::size_t after) {
        const std::size_t input =
            apply_bytes(e, logit_rows, spec_->hidden, spec_->input_norm_epsilon > 0);
        return view_bytes(e, logit_rows, spec_->hidden) + std::max(input, after);
    };
    const bool head_away = on_device(units.size() - 1);
    std::size_t host = head_away ? 0 : head(exec, 0),
                there = head_away ? head(away, ops::top_k_bytes(spec_->vocab)) : 0;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        const bool here = !on_device(layer + 1);
        const BlockPlan plan = {here ? exec : away, step_tokens,
                                here ? attend.host : attend.device};
        std::size_t& peak = here ? host : there;
        for (const auto& block : layers[layer]) peak = std::max(peak, block->workspace_bytes(plan));
        if (!here) host = std::max(host, attend.host);
    }
    const std::size_t x = view_bytes(exec, step_tokens, spec_->hidden);
    const auto between = [&](const Exec& e) {
        return largest_rank_ > 0 ? factor_bytes(e, step_tokens, largest_rank_) : 0;
    };
    host_workspace =
        x + host + between(exec) + adapter_workspace_bytes(adapters, exec, step_tokens);
    // Rows whose logits are wanted may come from the host.
    device_workspace = any_on_device()
                           ? x + there + between(away) + view_bytes(away, logit_rows, spec_->hidden)
                           : 0;
}

StorePlan Runner::store_plan(const ModelSource& source, const RunnerOptions& options) {
    return plan_store(source, RunnerPlan(source, options).exec,
                      {options.repack, options.weight_bytes});
}

std::string Runner::describe_placement(const ModelSource& source, const RunnerOptions& options) {
    if (options.device != Device::kCuda) return {};
    const RunnerPlan plan(source, options);
    const std::size_t head = plan.units.size() - 1;
    const std::int64_t streamed = plan.device.count(UnitPlace::kStreamed);
    std::int64_t layers = 0, tokens = plan.kv.context_tokens;
    for (std::size_t u = 1; u < head; ++u) layers += plan.on_device(u) ? 1 : 0;
    for (const KvPlacement::Layer& layer : plan.places.layers) {
        if (layer.on_device) tokens = std::min(tokens, layer.device_tokens);
    }
    std::string text = std::to_string(layers) + " of " + std::to_string(plan.layers.size()) +
                       " layers" + (plan.on_device(head) ? " and the head" : "") +
                       " on the CUDA device";
    if (streamed > 0)
        text += ", " + std::to_string(streamed) + " of these streamed from host memory";
    if (layers > 0 && tokens == 0) text += "; keys and values in host memory";
    if (layers > 0 && tokens > 0)
        text += "; keys and values of the first " + std::to_string(tokens) + " tokens there, too";
    return text;
}

void Runner::add_to_plan(Plan& plan, const ModelSource& source, const RunnerOptions& options,
                         const KvLoad& load, std::int64_t sequences, std::int64_t logits) {
    const RunnerPlan runner(source, options);
    const StateLayers layers = source.spec().state_layers();
    StorePlan store;
    if (runner.any_on_device()) {
        store.resident_bytes = runner.device.host_bytes + runner.device.pinned_bytes;
        store.staging_bytes = runner.device.staging_bytes;
        const std::uint64_t device_kv =
            static_cast<std::uint64_t>(sequences) *
            KvEngine::predict_device_bytes(layers, runner.kv, runner.places);
        plan.at(Tier::kVram, Purpose::kWeights) += runner.device.device_bytes();
        plan.at(Tier::kVram, Purpose::kKv) += device_kv;
        plan.at(Tier::kVram, Purpose::kActivations) +=
            Buffer::charged_bytes(runner.device_workspace, Place::kDevice);
        plan.at(Tier::kVram, Purpose::kLogits) +=
            Buffer::charged_bytes(runner.device_logits, Place::kDevice);
        CudaContext::add_to_plan(plan);
    } else {
        store = plan_store(source, runner.exec, {options.repack, options.weight_bytes});
    }
    const std::uint64_t kv = static_cast<std::uint64_t>(sequences) *
                             KvEngine::predict_bytes(layers, runner.kv, load, runner.places);
    std::uint64_t activations = Buffer::charged_bytes(runner.host_workspace);
    if (KvEngine::passes_by_layer(runner.kv))
        activations +=
            Buffer::charged_bytes(view_bytes(runner.exec, load.prompt, source.spec().hidden));
    const std::uint64_t rows = Buffer::charged_bytes(
        runner.logit_bytes(std::clamp<std::int64_t>(logits, 0, runner.logit_rows)));
    const std::uint64_t adapted = adapter_bytes(options.adapters, runner.exec);
    plan.at(Tier::kRam, Purpose::kWeights) += store.resident_bytes + store.lease_bytes + adapted;
    plan.at(Tier::kRam, Purpose::kIo) += store.io_bytes;
    plan.at(Tier::kRam, Purpose::kKv) += kv;
    plan.at(Tier::kRam, Purpose::kActivations) += activations;
    plan.at(Tier::kRam, Purpose::kLogits) += rows;
    // Loading needs a piece of the file before any of the others exist.
    const std::uint64_t later =
        store.lease_bytes + store.io_bytes + adapted + kv + activations + rows;
    if (store.staging_bytes > later) {
        plan.at(Tier::kRam, Purpose::kIo) += store.staging_bytes - later;
    }
}

}  // namespace thimble
