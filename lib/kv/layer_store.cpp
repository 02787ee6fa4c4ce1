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
                          std::int64_t context_tokens, std::int64_t device_tokens) {
    LayerPlan plan{.kv_heads = shape.kv_heads,
                   .head_dim = shape.head_dim,
                   .k = k,
                   .v = v,
                   .band = band,
                   .slots = band.bounded() ? ring_slots(band.sinks + band.window) : context_tokens};
    if (device_tokens >= plan.slots) {
        plan.device_slots = plan.all_slots();
    } else if (!plan.ring()) {
        plan.device_slots = device_tokens / kTile * kTile;
    }
    return plan;
}

std::int64_t LayerPlan::used_slots(std::int64_t tokens) const noexcept {
    if (!ring() || tokens == 0) return tokens;
    return band.sinks + std::min(tokens, slots);
}

std::uint64_t LayerPlan::bytes(std::int64_t tokens) const {
    const auto used =
        static_cast<std::size_t>(std::max<std::int64_t>(used_slots(tokens) - device_slots, 0));
    return static_cast<std::uint64_t>(kv_heads) *
           (LaneMemory::committed_lane_bytes(used * k.row_bytes(head_dim)) +
            LaneMemory::committed_lane_bytes(used * v.row_bytes(head_dim)));
}

std::uint64_t LayerPlan::device_bytes() const {
    const auto rows = static_cast<std::size_t>(device_slots * kv_heads);
    return Buffer::charged_bytes(rows * k.row_bytes(head_dim), Place::kDevice) +
           Buffer::charged_bytes(rows * v.row_bytes(head_dim), Place::kDevice);
}

namespace {

std::size_t host_lane_bytes(const LayerPlan& plan, const KvEncoding& how) {
    return static_cast<std::size_t>(plan.all_slots() - plan.device_slots) *
           how.row_bytes(plan.head_dim);
}
Buffer device_memory(const LayerPlan& plan, const KvEncoding& how) {
    if (plan.device_slots == 0) return {};
    const auto rows = static_cast<std::size_t>(plan.device_slots * plan.kv_heads);
    return {rows * how.row_bytes(plan.head_dim), Purpose::kKv, Place::kDevice};
}

}  // namespace

LayerStore::LayerStore(const LayerPlan& plan)
    : plan_(plan),
      k_{{plan.kv_heads, host_lane_bytes(plan, plan.k)}, device_memory(plan, plan.k)},
      v_{{plan.kv_heads, host_lane_bytes(plan, plan.v)}, device_memory(plan, plan.v)} {}

void LayerStore::resize(std::int64_t tokens) {
    const auto used = static_cast<std::size_t>(
        std::max<std::int64_t>(plan_.used_slots(tokens) - plan_.device_slots, 0));
    k_.host.resize(used * plan_.k.row_bytes(plan_.head_dim));
    v_.host.resize(used * plan_.v.row_bytes(plan_.head_dim));
}

void LayerStore::encode_on_host(const Exec& exec, const KvEncoding& how, View x, std::int64_t slot,
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

void LayerStore::encode(const Exec& exec, const KvEncoding& how, View x, std::int64_t slot,
                        Memory& memory) const {
    const std::int64_t on_device = std::clamp<std::int64_t>(plan_.device_slots - slot, 0, x.rows);
    if (on_device > 0) {
        const std::size_t row = how.row_bytes(plan_.head_dim);
        ops::encode_kv(exec, x.slice_rows(0, on_device), plan_.head_dim, how.layout,
                       memory.device.data() + static_cast<std::size_t>(slot) * row, row,
                       static_cast<std::size_t>(plan_.device_slots) * row);
    }
    if (on_device == x.rows) return;
    View rest = x.slice_rows(on_device, x.rows - on_device);
    const Exec& host = exec.host();
    const WorkspaceScope scope(*host.workspace);
    if (exec.device == Device::kCuda) {
        const View copy = host.workspace->take_view(rest.dtype, rest.rows, rest.cols);
        ops::copy_to_host(exec, rest, copy);
        rest = copy;
    }
    encode_on_host(host, how, rest, slot + on_device - plan_.device_slots, memory.host);
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

ops::AttnRows LayerStore::rows(const KvEncoding& how, const Memory& memory,
                               std::int64_t slot) const {
    const std::size_t row = how.row_bytes(plan_.head_dim);
    ops::AttnRows out{.f64 = how.f64, .layout = how.layout, .token_bytes = row};
    if (slot < plan_.device_slots) {
        out.data = memory.device.data() + static_cast<std::size_t>(slot) * row;
        out.head_bytes = static_cast<std::size_t>(plan_.device_slots) * row;
    } else {
        out.data = memory.host.data() + static_cast<std::size_t>(slot - plan_.device_slots) * row;
        out.head_bytes = memory.host.lane_stride();
    }
    return out;
}

void LayerStore::add_segment(Segments& out, std::int64_t slot, std::int64_t position,
                             std::int64_t count) const {
    while (count > 0) {
        const bool on_device = slot < plan_.device_slots;
        const std::int64_t some = on_device ? std::min(count, plan_.device_slots - slot) : count;
        out.part[out.count++] = {.k = rows(plan_.k, k_, slot),
                                 .v = rows(plan_.v, v_, slot),
                                 .slots = some,
                                 .first_position = position,
                                 .on_host = !on_device};
        slot += some, position += some, count -= some;
    }
}

LayerStore::Segments LayerStore::segments(std::int64_t first, std::int64_t end) const {
    Segments out;
    const std::int64_t begin = first / kTile * kTile;
    if (!plan_.ring()) {
        add_segment(out, begin, begin, end - begin);
        return out;
    }
    const std::int64_t slot = begin % plan_.slots;
    const std::int64_t before_wrap = std::min(end - begin, plan_.slots - slot);
    add_segment(out, plan_.band.sinks + slot, begin, before_wrap);
    add_segment(out, plan_.band.sinks, begin + before_wrap, end - begin - before_wrap);
    return out;
}

LayerStore::Segments LayerStore::sinks() const {
    Segments out;
    add_segment(out, 0, 0, plan_.band.sinks);
    return out;
}

std::int64_t LayerStore::rollback_floor(std::int64_t written) const noexcept {
    if (!plan_.ring() || written <= plan_.slots) return 0;
    // The next query reads `keys` positions, its own included, and must find them all.
    const std::int64_t oldest = ceil_div(written, kTile) * kTile - plan_.slots;
    return oldest + plan_.band.sinks + plan_.band.window - 1;
}

}  // namespace thimble
