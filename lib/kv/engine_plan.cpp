// SPDX-License-Identifier: Apache-2.0
// What an engine will hold, before there is one.
#include <algorithm>
#include <limits>

#include "core/error.h"
#include "kv/engine_state.h"

namespace thimble {
namespace {

constexpr std::int64_t kTile = ops::kAttentionTile;

std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

// Compact positions stay below the budget however long the text grows; linear stores and true
// positions do not.
std::int64_t capacity_of(const std::vector<LayerPlan>& plans, const KvNeeds& needs,
                         std::int64_t context_tokens) {
    const bool endless =
        needs.positions == PositionMode::kCompact &&
        std::all_of(plans.begin(), plans.end(), [](const LayerPlan& plan) { return plan.ring(); });
    return endless ? std::numeric_limits<std::int64_t>::max() / 4 : context_tokens;
}

void check_chain(const KvChain& chain, const KvOptions& options, const KvPlacement& placement) {
    const bool on_device = std::any_of(placement.layers.begin(), placement.layers.end(),
                                       [](const KvPlacement::Layer& l) { return l.on_device; });
    if (on_device && (chain.edits() || chain.of(KvPolicy::kBlocks) != nullptr ||
                      chain.of(KvPolicy::kFilter) != nullptr)) {
        throw Error(Exit::kUsage, "--kv-policy",
                    "'" + escaped(options.policy) + "' runs on the CPU only",
                    "use --device cpu, or full or streaming");
    }
    if (chain.of(KvPolicy::kChannels) != nullptr && options.type_k == "q8_0") {
        throw Error(Exit::kUsage, "--cache-type-k", "keys in blocks of q8_0 lose no channels",
                    "use f16");
    }
}

// Of a model that keeps no keys.
void refuse_idle(const KvOptions& options) {
    const char* flag = options.policy != "full"  ? "--kv-policy"
                       : options.type_k != "f16" ? "--cache-type-k"
                       : options.type_v != "f16" ? "--cache-type-v"
                                                 : nullptr;
    if (flag == nullptr) return;
    throw Error(
        Exit::kUsage, flag,
        "the model has no attention: it keeps no keys and values, only states of fixed size",
        "leave it out");
}

}  // namespace

KvShape::KvShape(StateLayers layers, const KvOptions& options, const KvPlacement& place)
    : specs(std::move(layers.attention)),
      recurrent(std::move(layers.recurrent)),
      placement(place),
      chain(KvChain::parse(options.policy, "--kv-policy")) {
    if (options.context_tokens <= 0)
        throw Error(Exit::kUsage, "--ctx-size", "the context needs at least one token");
    check_chain(chain, options, placement);
    if (specs.empty()) refuse_idle(options);
    for (const AttentionSpec& spec : specs) model.layers.push_back(spec.shape);
    model.context_tokens = options.context_tokens;
    chain.check(model, "--kv-policy");
    for (std::size_t i = 0; i < specs.size(); ++i) {
        const AttentionLayer& shape = specs[i].shape;
        const KvBand band = shape.window > 0 ? KvBand{.window = shape.window}
                                             : chain.band(model, static_cast<int>(i));
        const auto k = KvEncoding::parse(options.type_k, "-ctk", shape.head_dim, placement.device);
        const auto v = KvEncoding::parse(options.type_v, "-ctv", shape.head_dim, placement.device);
        plans.push_back(LayerPlan::make(shape, band, k, v, options.context_tokens,
                                        placement.at(i).device_tokens,
                                        options.huge_pages ? PageSize::kHuge : PageSize::kBase));
        if (!governs(i)) continue;
        token_bytes += static_cast<std::uint64_t>(shape.kv_heads) *
                       (k.row_bytes(shape.head_dim) + v.row_bytes(shape.head_dim));
    }
    capacity = capacity_of(plans, chain.needs(), options.context_tokens);
}

std::int64_t KvEngine::capacity_tokens(const StateLayers& layers, const KvOptions& options) {
    return KvShape(layers, options, Device::kCpu).capacity;
}

namespace {

// An edited layer: what it holds before the edit, with the edit's scratch, and for good.
struct Edited {
    std::uint64_t before = 0, after = 0;
};

Edited edited_bytes(const KvShape& shape, std::size_t layer, const KvLoad& load,
                    std::int64_t kept_of_prompt, std::int64_t kept_at_end) {
    const LayerPlan& plan = shape.plans[layer];
    const AttentionLayer& attention = shape.specs[layer].shape;
    const KvNeeds& needs = shape.chain.needs();
    const bool bias = shape.chain.of(KvPolicy::kMerge) != nullptr;
    const auto kv_heads = static_cast<std::uint64_t>(plan.kv_heads);
    const auto limit = [&](std::int64_t kept, std::int64_t all) {
        return kept > 0 ? std::min(kept, all) : all;
    };
    const std::int64_t of_prompt = limit(kept_of_prompt, load.prompt);
    std::int64_t slots = of_prompt + load.tokens - load.prompt;
    if (needs.edits_decode) slots = std::max(of_prompt, limit(kept_at_end, load.tokens)) + 1;
    slots = std::min(slots, load.tokens);
    Edited out;
    out.after = plan.sparse_bytes(slots, bias) +
                LayerStatistics::list_bytes(needs, attention, slots, false);
    if (const KvPolicy* narrowing = shape.chain.of(KvPolicy::kChannels)) {
        const auto dim = std::int64_t{attention.head_dim};
        const std::size_t saved =
            plan.k.row_bytes(dim) - plan.k.row_bytes(narrowing->key_channels(dim));
        const std::int64_t few = std::max<std::int64_t>(of_prompt - narrowing->whole_tokens(), 0);
        out.after -= kv_heads * static_cast<std::uint64_t>(few) * saved;
    }
    // Heads of unequal length begin pages of their own, and so do narrowed keys.
    if (shape.chain.of(KvPolicy::kHeads) != nullptr ||
        shape.chain.of(KvPolicy::kChannels) != nullptr || needs.waits_for_layers)
        out.after += kv_heads * (4 * LaneMemory::committed_lane_bytes(1, plan.page) + 512);
    const std::uint64_t row = static_cast<std::uint64_t>(load.prompt) * sizeof(float);
    // Positions, twice while they are looked at; scores; the window's logits; keys and values
    // copied when channels go.
    const std::uint64_t scratch =
        row * (3 * kv_heads + static_cast<std::uint64_t>(
                                  needs.edit_rows + needs.edit_vectors * attention.head_dim +
                                  needs.window_rows * attention.heads / attention.kv_heads)) +
        static_cast<std::uint64_t>(needs.window_rows * attention.heads * attention.head_dim) *
            sizeof(float) +
        (shape.chain.of(KvPolicy::kChannels) != nullptr ? plan.sparse_bytes(of_prompt, bias) : 0);
    out.before = plan.sparse_bytes(load.prompt, bias) +
                 LayerStatistics::list_bytes(needs, attention, load.prompt, true) + scratch;
    return out;
}

// The pass that chooses: one layer at a time holds the whole prompt, and the last one is looked at.
std::uint64_t filter_bytes(const KvShape& shape, std::int64_t tokens) {
    std::uint64_t most = 0;
    for (std::size_t i = 0; i < shape.plans.size(); ++i) {
        const AttentionLayer& layer = shape.specs[i].shape;
        const auto heads = static_cast<std::uint64_t>(layer.heads);
        const auto kv_heads = static_cast<std::uint64_t>(layer.kv_heads);
        const std::uint64_t rows = heads / kv_heads + 2 * kv_heads + 4;
        most = std::max(most,
                        shape.plans[i].bytes(tokens) +
                            LayerStatistics::list_bytes(shape.chain.needs(), layer, tokens, true) +
                            rows * static_cast<std::uint64_t>(tokens) * sizeof(float));
    }
    return most;
}

// Forks in which a model repeats its prompt: what they hold of their own.
std::uint64_t repeat_bytes(const KvShape& shape, std::int64_t tokens) {
    constexpr std::int64_t kRequest = 64;
    const std::int64_t piece = shape.chain.needs().repeat_tokens;
    if (piece == 0) return 0;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < shape.plans.size(); ++i) {
        const bool ring = shape.plans[i].ring();
        sum += shape.plans[i].bytes(ring ? tokens + piece
                                         : std::min(piece, tokens) + kRequest + 2 * kTile);
        if (shape.governs(i)) {
            sum += LayerStatistics::list_bytes(shape.chain.needs(), shape.specs[i].shape,
                                               tokens + piece + kRequest, true);
        }
    }
    return sum;
}

}  // namespace

std::uint64_t KvEngine::predict_bytes(const StateLayers& layers, const KvOptions& options,
                                      const KvLoad& all, const KvPlacement& placement) {
    const KvShape shape(layers, options, placement);
    const KvNeeds& needs = shape.chain.needs();
    std::uint64_t sum = RecurrentState::predict_bytes(shape.recurrent, shape.state_dtype());
    std::uint64_t extra = 0;
    KvLoad load = all;
    if (const KvPolicy* filter = shape.chain.of(KvPolicy::kFilter)) {
        const std::int64_t kept =
            std::min(all.prompt, filter->filter_budget()->tokens(all.prompt, shape.token_bytes));
        load = {all.tokens - all.prompt + kept, kept};
        extra = filter_bytes(shape, all.prompt);
    }
    const auto kept = shape.chain.layer_tokens(shape.model, load.prompt, shape.token_bytes);
    const auto at_end = shape.chain.layer_tokens(shape.model, load.tokens, shape.token_bytes);
    for (std::size_t i = 0; i < shape.plans.size(); ++i) {
        if (!shape.governs(i) || !shape.chain.edits()) {
            sum += shape.plans[i].bytes(load.tokens);
            if (shape.governs(i))
                sum += LayerStatistics::list_bytes(needs, shape.specs[i].shape, load.tokens,
                                                   load.tokens > 0);
            continue;
        }
        const Edited bytes = edited_bytes(shape, i, load, kept[i], at_end[i]);
        if (needs.waits_for_layers) {
            sum += std::max(bytes.before, bytes.after);
            continue;
        }
        // One layer at a time holds the whole prompt.
        sum += bytes.after;
        if (bytes.before > bytes.after) extra = std::max(extra, bytes.before - bytes.after);
    }
    return sum + extra + repeat_bytes(shape, load.prompt);
}

std::uint64_t KvEngine::predict_device_bytes(const StateLayers& layers, const KvOptions& options,
                                             const KvPlacement& placement) {
    std::uint64_t sum = 0;
    for (const LayerPlan& plan : KvShape(layers, options, placement).plans) {
        if (plan.device_slots > 0) sum += plan.device_bytes();
    }
    return sum;
}

bool KvEngine::can_store(const std::vector<AttentionSpec>& layers, LayoutId layout) {
    const int block = layout_info(layout).block_elements;
    return !layers.empty() &&
           std::all_of(layers.begin(), layers.end(),
                       [&](const AttentionSpec& l) { return l.shape.head_dim % block == 0; });
}

KvEngine::WorkspaceBytes KvEngine::workspace_bytes(const StateLayers& layers,
                                                   const KvOptions& options, std::int64_t count,
                                                   const KvPlacement& placement) {
    const KvShape all(layers, options, placement);
    const std::size_t element = placement.device == Device::kRef ? sizeof(double) : sizeof(float);
    WorkspaceBytes most;
    for (std::size_t i = 0; i < all.plans.size(); ++i) {
        const LayerPlan& plan = all.plans[i];
        const AttentionLayer& shape = all.specs[i].shape;
        const std::int64_t rows = plan.ring() ? std::min(count, kTile) : count;
        const auto n = static_cast<std::size_t>(rows);
        const auto heads = static_cast<std::size_t>(shape.heads);
        const auto dim = static_cast<std::size_t>(shape.head_dim);
        const std::size_t positions = 2 * aligned(n * sizeof(std::int64_t));
        const bool on_device = placement.at(i).on_device;
        const Device device = on_device                          ? Device::kCuda
                              : placement.device == Device::kRef ? Device::kRef
                                                                 : Device::kCpu;
        // A row that reads several sequences, part by part.
        std::size_t bytes = 3 * aligned(heads * dim * element) + 4 * aligned(heads * element);
        if (plan.band.sinks > 0)
            bytes += 2 * aligned(n * heads * dim * element) + 4 * aligned(n * heads * element);
        bytes +=
            ops::attention_workspace_bytes(rows, shape.heads, shape.head_dim, plan.slots, device);
        if (all.governs(i)) {
            bytes = std::max(
                bytes, LayerStatistics::workspace_bytes(all.chain.needs(), shape, plan.slots));
        }
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
