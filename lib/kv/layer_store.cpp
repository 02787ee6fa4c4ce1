// SPDX-License-Identifier: Apache-2.0
#include "kv/layer_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>

#include "core/checked.h"
#include "core/error.h"
#include "core/strings.h"
#include "kv/slot_list.h"
#include "ops/encode.h"

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

std::size_t KvEncoding::row_bytes(std::int64_t elements) const {
    if (f64) return static_cast<std::size_t>(elements) * sizeof(double);
    const LayoutInfo& info = layout_info(layout);
    return static_cast<std::size_t>(elements / info.block_elements) * info.block_bytes;
}

LayerPlan LayerPlan::make(const AttentionLayer& shape, KvBand band, KvEncoding k, KvEncoding v,
                          std::int64_t context_tokens, std::int64_t device_tokens, PageSize page) {
    LayerPlan plan{.kv_heads = shape.kv_heads,
                   .head_dim = shape.head_dim,
                   .k = k,
                   .v = v,
                   .band = band,
                   .page = page,
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
           (LaneMemory::committed_lane_bytes(used * k.row_bytes(head_dim), page) +
            LaneMemory::committed_lane_bytes(used * v.row_bytes(head_dim), page));
}

std::uint64_t LayerPlan::sparse_bytes(std::int64_t count, bool bias) const {
    const auto slots_of = static_cast<std::size_t>(count);
    const auto room = static_cast<std::uint64_t>(slot_list_room(count));
    return static_cast<std::uint64_t>(kv_heads) *
           (LaneMemory::committed_lane_bytes(slots_of * k.row_bytes(head_dim), page) +
            LaneMemory::committed_lane_bytes(slots_of * v.row_bytes(head_dim), page) +
            room * (sizeof(std::int32_t) + (bias ? sizeof(float) : 0)));
}

std::uint64_t LayerPlan::device_bytes() const {
    const auto rows = static_cast<std::size_t>(device_slots * kv_heads);
    return Buffer::charged_bytes(rows * k.row_bytes(head_dim), Place::kDevice) +
           Buffer::charged_bytes(rows * v.row_bytes(head_dim), Place::kDevice);
}

std::uint64_t LayerStore::Part::bytes() const noexcept {
    std::uint64_t sum = k.committed_bytes() + v.committed_bytes();
    for (const auto& head : positions) sum += head.capacity() * sizeof(std::int32_t);
    for (const auto& head : bias) sum += head.capacity() * sizeof(float);
    return sum;
}

LayerStore::LayerStore(const LayerPlan& plan, std::pmr::memory_resource& memory)
    : plan_(plan), memory_(&memory) {
    parts_.push_back(new_part(plan.all_slots() - plan.device_slots, plan.head_dim));
    if (plan.device_slots == 0) return;
    const auto rows = static_cast<std::size_t>(plan.device_slots * plan.kv_heads);
    own().device_k = Buffer(rows * plan.k.row_bytes(plan.head_dim), Purpose::kKv, Place::kDevice);
    own().device_v = Buffer(rows * plan.v.row_bytes(plan.head_dim), Purpose::kKv, Place::kDevice);
}

std::shared_ptr<LayerStore::Part> LayerStore::new_part(std::int64_t capacity,
                                                       std::int64_t k_elements) const {
    auto part = std::make_shared<Part>();
    const auto rows = static_cast<std::size_t>(capacity);
    part->k = LaneMemory(plan_.kv_heads, rows * plan_.k.row_bytes(k_elements), plan_.page);
    part->v = LaneMemory(plan_.kv_heads, rows * plan_.v.row_bytes(plan_.head_dim), plan_.page);
    part->slots.resize(static_cast<std::size_t>(plan_.kv_heads));
    return part;
}

void LayerStore::set_parts(std::vector<std::shared_ptr<Part>> parts, bool sparse) {
    parts_ = std::move(parts);
    sparse_ = sparse;
}

std::size_t LayerStore::k_row_bytes(const Part& part) const {
    return plan_.k.row_bytes(part.channels.empty() ? plan_.head_dim
                                                   : std::ssize(part.channels.front()));
}

std::int64_t LayerStore::slots(int kv_head) const {
    std::int64_t sum = 0;
    for (const auto& part : parts_) sum += part->slots[static_cast<std::size_t>(kv_head)];
    return sum;
}

std::pmr::vector<std::int32_t> LayerStore::positions(int kv_head) const {
    std::pmr::vector<std::int32_t> out(memory_);
    out.reserve(static_cast<std::size_t>(slots(kv_head)));
    const auto h = static_cast<std::size_t>(kv_head);
    for (const auto& part : parts_) {
        if (sparse_) {
            out.insert(out.end(), part->positions[h].begin(), part->positions[h].end());
            continue;
        }
        for (std::int64_t i = 0; i < part->slots[h]; ++i)
            out.push_back(static_cast<std::int32_t>(part->first_position + i));
    }
    return out;
}

// --- memory ---

void LayerStore::reserve(std::int64_t tokens, std::int64_t count) {
    Part& part = own();
    const std::size_t k_row = plan_.k.row_bytes(plan_.head_dim);
    const std::size_t v_row = plan_.v.row_bytes(plan_.head_dim);
    if (!sparse_) {
        const auto used = static_cast<std::size_t>(std::max<std::int64_t>(
            plan_.used_slots(tokens + count) - part.first_position - plan_.device_slots, 0));
        part.k.resize(used * k_row);
        part.v.resize(used * v_row);
        return;
    }
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto used = static_cast<std::size_t>(part.slots[h] + count);
        part.k.resize(head, used * k_row);
        part.v.resize(head, used * v_row);
        make_room(part.positions[h], used);
        if (!part.bias.empty()) make_room(part.bias[h], used);
    }
}

void LayerStore::cut(std::int64_t tokens) {
    if (tokens == 0) {
        parts_.resize(1);
        if (parts_.front().use_count() > 1 || !own().channels.empty())
            parts_ = {new_part(plan_.all_slots(), plan_.head_dim)};
        sparse_ = false;
        own().first_position = 0;
        own().positions.clear(), own().bias.clear();
        std::fill(own().slots.begin(), own().slots.end(), 0);
    } else if (!sparse_ && !plan_.ring()) {
        while (tokens < own().first_position) {
            parts_.pop_back();
            if (parts_.back().use_count() > 1) parts_.back() = copy(own());
        }
        std::fill(own().slots.begin(), own().slots.end(), tokens - own().first_position);
    } else if (sparse_) {
        for (int head = 0; head < plan_.kv_heads; ++head) {
            const auto h = static_cast<std::size_t>(head);
            auto& positions = own().positions[h];
            while (!positions.empty() && positions.back() >= tokens) positions.pop_back();
            own().slots[h] = std::ssize(positions);
            if (!own().bias.empty()) own().bias[h].resize(positions.size());
        }
    }
    reserve(tokens, 0);
}

std::shared_ptr<LayerStore::Part> LayerStore::copy(const Part& from) const {
    const std::int64_t width =
        from.channels.empty() ? plan_.head_dim : std::ssize(from.channels.front());
    auto part = new_part(plan_.all_slots(), width);
    part->first_position = from.first_position;
    part->slots = from.slots;
    part->channels = from.channels;
    const std::size_t k_row = k_row_bytes(from), v_row = plan_.v.row_bytes(plan_.head_dim);
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto rows =
            static_cast<std::size_t>(plan_.ring() ? plan_.all_slots() : from.slots[h]);
        const std::size_t k_bytes = std::min(rows * k_row, from.k.committed_bytes(head));
        const std::size_t v_bytes = std::min(rows * v_row, from.v.committed_bytes(head));
        part->k.resize(head, k_bytes);
        part->v.resize(head, v_bytes);
        std::memcpy(part->k.lane(head), from.k.lane(head), k_bytes);
        std::memcpy(part->v.lane(head), from.v.lane(head), v_bytes);
    }
    for (const auto& head : from.positions) {
        part->positions.emplace_back(memory_);
        make_room(part->positions.back(), head.size());
        part->positions.back().assign(head.begin(), head.end());
    }
    for (const auto& head : from.bias) {
        part->bias.emplace_back(memory_);
        make_room(part->bias.back(), head.size());
        part->bias.back().assign(head.begin(), head.end());
    }
    return part;
}

// --- writing ---

void LayerStore::encode_on_host(const Exec& exec, const KvEncoding& how, View x, std::byte* out,
                                std::size_t head_bytes) const {
    const std::size_t row = how.row_bytes(plan_.head_dim);
    if (!how.f64) {
        ops::encode_kv(exec, x, plan_.head_dim, how.layout, out, row, head_bytes);
        return;
    }
    for (std::int64_t t = 0; t < x.rows; ++t) {
        for (std::int64_t head = 0; head < x.cols / plan_.head_dim; ++head) {
            std::memcpy(out + static_cast<std::size_t>(t) * row +
                            static_cast<std::size_t>(head) * head_bytes,
                        x.row<double>(t) + head * plan_.head_dim, row);
        }
    }
}

// All heads' rows from `slot` of the own part on.
void LayerStore::encode(const Exec& exec, bool keys, View x, std::int64_t slot) const {
    const KvEncoding& how = keys ? plan_.k : plan_.v;
    const LaneMemory& host_memory = keys ? own().k : own().v;
    const std::size_t row = how.row_bytes(plan_.head_dim);
    const std::int64_t on_device = std::clamp<std::int64_t>(plan_.device_slots - slot, 0, x.rows);
    if (on_device > 0) {
        const Buffer& device = keys ? own().device_k : own().device_v;
        ops::encode_kv(exec, x.slice_rows(0, on_device), plan_.head_dim, how.layout,
                       const_cast<std::byte*>(device.data()) + static_cast<std::size_t>(slot) * row,
                       row, static_cast<std::size_t>(plan_.device_slots) * row);
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
    const auto first = static_cast<std::size_t>(slot + on_device - plan_.device_slots);
    encode_on_host(host, how, rest, host_memory.data() + first * row, host_memory.lane_stride());
}

void LayerStore::write(const Exec& exec, std::int64_t first, View k, View v) {
    if (sparse_) return write_sparse(exec, first, k, v);
    const std::int64_t sinks = plan_.ring() ? plan_.band.sinks : 0;
    const std::int64_t slot =
        plan_.ring() ? sinks + first % plan_.slots : first - own().first_position;
    encode(exec, true, k, slot);
    encode(exec, false, v, slot);
    if (!plan_.ring()) std::fill(own().slots.begin(), own().slots.end(), slot + k.rows);
    if (first >= sinks) return;
    const std::int64_t count = std::min(sinks - first, k.rows);
    encode(exec, true, k.slice_rows(0, count), first);
    encode(exec, false, v.slice_rows(0, count), first);
}

void LayerStore::write_sparse(const Exec& exec, std::int64_t first, View k, View v) {
    Part& part = own();
    const std::int64_t dim = plan_.head_dim;
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto slot = static_cast<std::size_t>(part.slots[h]);
        for (const bool keys : {true, false}) {
            const View& x = keys ? k : v;
            const KvEncoding& how = keys ? plan_.k : plan_.v;
            const LaneMemory& memory = keys ? part.k : part.v;
            const View one = {static_cast<std::byte*>(x.data) +
                                  static_cast<std::size_t>(head * dim) * size_of(x.dtype),
                              x.dtype, x.rows, dim, x.stride};
            encode_on_host(exec, how, one, memory.lane(head) + slot * how.row_bytes(dim), 0);
        }
        for (std::int64_t t = 0; t < k.rows; ++t)
            part.positions[h].push_back(static_cast<std::int32_t>(first + t));
        if (!part.bias.empty()) part.bias[h].resize(part.positions[h].size());
        part.slots[h] += k.rows;
    }
}

// --- reading ---

ops::AttnRows LayerStore::rows(const KvEncoding& how, std::size_t row, const LaneMemory& host,
                               const Buffer& device, std::int64_t slot) const {
    ops::AttnRows out{.f64 = how.f64, .layout = how.layout, .token_bytes = row};
    if (slot < plan_.device_slots) {
        out.data = device.data() + static_cast<std::size_t>(slot) * row;
        out.head_bytes = static_cast<std::size_t>(plan_.device_slots) * row;
    } else {
        out.data = host.data() + static_cast<std::size_t>(slot - plan_.device_slots) * row;
        out.head_bytes = host.lane_stride();
    }
    return out;
}

void LayerStore::add_segment(Segments& out, const Part& part, std::int64_t slot,
                             std::int64_t position, std::int64_t count) const {
    while (count > 0) {
        const bool on_device = slot < plan_.device_slots;
        const std::int64_t some = on_device ? std::min(count, plan_.device_slots - slot) : count;
        out.push_back(
            {.k = rows(plan_.k, k_row_bytes(part), part.k, part.device_k, slot),
             .v = rows(plan_.v, plan_.v.row_bytes(plan_.head_dim), part.v, part.device_v, slot),
             .slots = some,
             .first_position = position,
             .on_host = !on_device});
        slot += some, position += some, count -= some;
    }
}

void LayerStore::add_slots(Segments& out, int kv_head, std::int64_t first,
                           std::int64_t count) const {
    const auto h = static_cast<std::size_t>(kv_head);
    for (const auto& part : parts_) {
        const std::int64_t some = std::min(count, part->slots[h] - first);
        if (some > 0) {
            const auto slot = static_cast<std::size_t>(first);
            const std::size_t k_row = k_row_bytes(*part), v_row = plan_.v.row_bytes(plan_.head_dim);
            ops::AttnSegment segment{
                .k = {.data = part->k.lane(kv_head) + slot * k_row,
                      .f64 = plan_.k.f64,
                      .layout = plan_.k.layout,
                      .token_bytes = k_row},
                .v = {.data = part->v.lane(kv_head) + slot * v_row,
                      .f64 = plan_.v.f64,
                      .layout = plan_.v.layout,
                      .token_bytes = v_row},
                .slots = some,
                .positions = sparse_ ? part->positions[h].data() + slot : nullptr,
                .first_position = part->first_position + first,
                .on_host = true,
                .kv_head = kv_head,
                .bias = part->bias.empty() ? nullptr : part->bias[h].data() + slot};
            if (!part->channels.empty()) segment.channels = part->channels[h];
            out.push_back(segment);
            count -= some;
        }
        first = std::max<std::int64_t>(first - part->slots[h], 0);
    }
}

LayerStore::Segments LayerStore::segments(std::int64_t first, std::int64_t end) const {
    Segments out;
    if (sparse_) {
        for (int head = 0; head < plan_.kv_heads; ++head) add_slots(out, head, 0, slots(head));
        return out;
    }
    const std::int64_t begin = first / kTile * kTile;
    if (!plan_.ring()) {
        for (const auto& part : parts_) {
            const std::int64_t low = std::max(begin, part->first_position);
            const std::int64_t high = std::min(end, part->first_position + part->slots.front());
            add_segment(out, *part, low - part->first_position, low, high - low);
        }
        return out;
    }
    const std::int64_t slot = begin % plan_.slots;
    const std::int64_t before_wrap = std::min(end - begin, plan_.slots - slot);
    add_segment(out, own(), plan_.band.sinks + slot, begin, before_wrap);
    add_segment(out, own(), plan_.band.sinks, begin + before_wrap, end - begin - before_wrap);
    return out;
}

LayerStore::Segments LayerStore::sinks() const {
    Segments out;
    add_segment(out, own(), 0, 0, plan_.band.sinks);
    return out;
}

void LayerStore::read_row(const Exec& exec, const Part& part, bool keys, int kv_head,
                          std::int64_t slot, float* out) const {
    const KvEncoding& how = keys ? plan_.k : plan_.v;
    const bool narrow = keys && !part.channels.empty();
    const auto h = static_cast<std::size_t>(kv_head);
    const std::int64_t width = narrow ? std::ssize(part.channels[h]) : plan_.head_dim;
    const std::size_t bytes = how.row_bytes(width);
    const std::byte* from =
        (keys ? part.k : part.v).lane(kv_head) + static_cast<std::size_t>(slot) * bytes;
    if (how.f64) {
        const auto* wide = reinterpret_cast<const double*>(from);
        for (std::int64_t c = 0; c < width; ++c) out[c] = static_cast<float>(wide[c]);
    } else {
        PackedView packed{.layout = how.layout, .shape = {1, width}, .n_planes = 1};
        packed.planes[0] = {.data = from, .row_bytes = bytes, .bytes = bytes};
        ops::decode_rows(exec.isa, packed, {0, 1}, {out, DType::kF32, 1, width, width});
    }
    if (!narrow) return;
    const auto& channels = part.channels[h];  // spread from the last on, in place
    for (std::int64_t c = width - 1, at = plan_.head_dim - 1; at >= 0; --at) {
        const bool there = c >= 0 && channels[static_cast<std::size_t>(c)] == at;
        out[at] = there ? out[c] : 0.0f;
        if (there) --c;
    }
}

void LayerStore::read(const Exec& exec, bool keys, int kv_head, std::int64_t first,
                      View out) const {
    const auto h = static_cast<std::size_t>(kv_head);
    std::int64_t row = 0;
    for (const auto& part : parts_) {
        const std::int64_t some = std::min(out.rows - row, part->slots[h] - first);
        for (std::int64_t i = 0; i < some; ++i, ++row)
            read_row(exec, *part, keys, kv_head, first + i, out.row<float>(row));
        first = std::max<std::int64_t>(first - part->slots[h], 0);
    }
}

void LayerStore::read_position(const Exec& exec, int kv_head, std::int64_t position, View key,
                               View value) const {
    std::size_t p = 0;
    while (p + 1 < parts_.size() && parts_[p + 1]->first_position <= position) ++p;
    const std::int64_t slot = plan_.ring() ? plan_.band.sinks + position % plan_.slots
                                           : position - parts_[p]->first_position;
    read_row(exec, *parts_[p], true, kv_head, slot, key.row<float>(0));
    read_row(exec, *parts_[p], false, kv_head, slot, value.row<float>(0));
}

std::int64_t LayerStore::rollback_floor(std::int64_t written) const noexcept {
    if (!plan_.ring() || written <= plan_.slots) return 0;
    // The next query reads `keys` positions, its own included, and must find them all.
    const std::int64_t oldest = ceil_div(written, kTile) * kTile - plan_.slots;
    return oldest + plan_.band.sinks + plan_.band.window - 1;
}

}  // namespace thimble
