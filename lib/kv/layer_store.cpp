// SPDX-License-Identifier: Apache-2.0
#include "kv/layer_store.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/checked.h"
#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr std::int64_t kTile = ops::kAttentionTile;

// One query reads at most `keys` consecutive positions; queries are written and served tile by
// tile. One more tile lets a sequence be cut back by a tile's worth of tokens.
std::int64_t ring_slots(std::int64_t keys) { return (ceil_div(keys - 1, kTile) + 2) * kTile; }

}  // namespace

KvEncoding KvEncoding::parse(const std::string& name, const char* flag, int head_dim,
                             Device device) {
    static const std::vector<std::string> names{"f32", "f16", "bf16", "q8_0"};
    static constexpr std::array layouts{LayoutId::k_f32, LayoutId::k_f16, LayoutId::k_bf16,
                                        LayoutId::k_q8_0};
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
        throw Error(Exit::kUsage, flag, "unknown KV cache type '" + escaped(name) + "'",
                    did_you_mean(name, names));
    }
    const LayoutId layout = layouts[static_cast<std::size_t>(found - names.begin())];
    const int block = layout_info(layout).block_elements;
    if (head_dim % block != 0) {
        throw Error(Exit::kUsage, flag,
                    name + " stores blocks of " + std::to_string(block) +
                        ", which do not divide this model's heads of " + std::to_string(head_dim),
                    "use f16");
    }
    return {.f64 = device == Device::kRef, .layout = layout};
}

std::size_t KvEncoding::row_bytes(int head_dim) const {
    const auto elements = static_cast<std::size_t>(head_dim);
    if (f64) return elements * sizeof(double);
    const LayoutInfo& info = layout_info(layout);
    return elements / static_cast<std::size_t>(info.block_elements) * info.block_bytes;
}

LayerPlan LayerPlan::make(const AttentionLayer& shape, KvBand band, KvEncoding k, KvEncoding v,
                          std::int64_t context_tokens) {
    return {.kv_heads = shape.kv_heads,
            .head_dim = shape.head_dim,
            .k = k,
            .v = v,
            .band = band,
            .slots = band.bounded() ? ring_slots(band.sinks + band.window) : context_tokens};
}

std::int64_t LayerPlan::used_slots(std::int64_t tokens) const noexcept {
    if (!ring() || tokens == 0) return tokens;
    return band.sinks + std::min(tokens, slots);
}

std::uint64_t LayerPlan::bytes(std::int64_t tokens) const {
    const auto used = static_cast<std::size_t>(used_slots(tokens));
    return static_cast<std::uint64_t>(kv_heads) *
           (LaneMemory::committed_lane_bytes(used * k.row_bytes(head_dim)) +
            LaneMemory::committed_lane_bytes(used * v.row_bytes(head_dim)));
}

LayerStore::LayerStore(const LayerPlan& plan)
    : plan_(plan),
      k_(plan.kv_heads,
         static_cast<std::size_t>(plan.used_slots(plan.slots)) * plan.k.row_bytes(plan.head_dim)),
      v_(plan.kv_heads,
         static_cast<std::size_t>(plan.used_slots(plan.slots)) * plan.v.row_bytes(plan.head_dim)) {}

void LayerStore::resize(std::int64_t tokens) {
    const auto used = static_cast<std::size_t>(plan_.used_slots(tokens));
    k_.resize(used * plan_.k.row_bytes(plan_.head_dim));
    v_.resize(used * plan_.v.row_bytes(plan_.head_dim));
}

void LayerStore::encode(const Exec& exec, const KvEncoding& how, View x, std::int64_t slot,
                        LaneMemory& memory) const {
    const std::size_t row = how.row_bytes(plan_.head_dim);
    std::byte* out = memory.data() + static_cast<std::size_t>(slot) * row;
    if (!how.f64) {
        ops::encode_kv(exec, x, plan_.head_dim, how.layout, out, row, memory.lane_stride());
        return;
    }
    for (std::int64_t t = 0; t < x.rows; ++t) {
        for (int head = 0; head < plan_.kv_heads; ++head) {
            std::memcpy(out + static_cast<std::size_t>(t) * row +
                            static_cast<std::size_t>(head) * memory.lane_stride(),
                        x.row<double>(t) + head * plan_.head_dim, row);
        }
    }
}

void LayerStore::write(const Exec& exec, std::int64_t first, View k, View v) {
    const std::int64_t sinks = plan_.ring() ? plan_.band.sinks : 0;
    const std::int64_t slot = sinks + (plan_.ring() ? first % plan_.slots : first);
    encode(exec, plan_.k, k, slot, k_);
    encode(exec, plan_.v, v, slot, v_);
    if (first >= sinks) return;
    const std::int64_t count = std::min(sinks - first, k.rows);
    encode(exec, plan_.k, k.slice_rows(0, count), first, k_);
    encode(exec, plan_.v, v.slice_rows(0, count), first, v_);
}

ops::AttnSegment LayerStore::segment(std::int64_t slot, std::int64_t position,
                                     std::int64_t count) const {
    const auto rows = [&](const KvEncoding& how, const LaneMemory& memory) {
        const std::size_t row = how.row_bytes(plan_.head_dim);
        return ops::AttnRows{.data = memory.data() + static_cast<std::size_t>(slot) * row,
                             .f64 = how.f64,
                             .layout = how.layout,
                             .token_bytes = row,
                             .head_bytes = memory.lane_stride()};
    };
    return {
        .k = rows(plan_.k, k_), .v = rows(plan_.v, v_), .slots = count, .first_position = position};
}

LayerStore::Segments LayerStore::segments(std::int64_t first, std::int64_t end) const {
    Segments out;
    const std::int64_t begin = first / kTile * kTile;
    if (!plan_.ring()) {
        out.part[out.count++] = segment(begin, begin, end - begin);
        return out;
    }
    const std::int64_t slot = begin % plan_.slots;
    const std::int64_t before_wrap = std::min(end - begin, plan_.slots - slot);
    out.part[out.count++] = segment(plan_.band.sinks + slot, begin, before_wrap);
    if (begin + before_wrap < end) {
        out.part[out.count++] =
            segment(plan_.band.sinks, begin + before_wrap, end - begin - before_wrap);
    }
    return out;
}

ops::AttnSegment LayerStore::sinks() const { return segment(0, 0, plan_.band.sinks); }

std::int64_t LayerStore::rollback_floor(std::int64_t written) const noexcept {
    if (!plan_.ring() || written <= plan_.slots) return 0;
    // The next query reads `keys` positions, its own included, and must find them all.
    const std::int64_t oldest = ceil_div(written, kTile) * kTile - plan_.slots;
    return oldest + plan_.band.sinks + plan_.band.window - 1;
}

}  // namespace thimble
