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
        const bool keeps_device = plan_.device_slots > 0;
        if (!keeps_device || sparse_ || parts_.size() > 1)
            parts_ = {new_part(plan_.all_slots(), plan_.head_dim)};
        sparse_ = false;
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

// --- edits ---

// Before an edit: positions are explicit, nothing is shared, and keys of all channels lie in one
// part, so that a fork's edits are those that its origin would do.
void LayerStore::make_sparse() {
    if (!sparse_) {
        for (auto& part : parts_) {
            if (part.use_count() > 1) part = copy(*part);
            for (int head = 0; head < plan_.kv_heads; ++head) {
                auto& positions = part->positions.emplace_back(memory_);
                const auto count =
                    static_cast<std::size_t>(part->slots[static_cast<std::size_t>(head)]);
                make_room(positions, count);
                positions.resize(count);
                std::iota(positions.begin(), positions.end(),
                          static_cast<std::int32_t>(part->first_position));
            }
        }
        sparse_ = true;
    }
    std::size_t narrow = 0;
    for (; narrow < parts_.size() && !parts_[narrow]->channels.empty(); ++narrow) {
        if (parts_[narrow].use_count() > 1) parts_[narrow] = copy(*parts_[narrow]);
    }
    auto first = parts_.begin() + static_cast<std::ptrdiff_t>(narrow);
    if (first->use_count() > 1) *first = copy(**first);
    for (auto next = first + 1; next != parts_.end(); ++next) append(**first, **next);
    parts_.erase(first + 1, parts_.end());
}

void LayerStore::append(Part& to, const Part& from) const {
    const std::size_t k_row = k_row_bytes(from), v_row = plan_.v.row_bytes(plan_.head_dim);
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto at = static_cast<std::size_t>(to.slots[h]);
        const auto count = static_cast<std::size_t>(from.slots[h]);
        to.k.resize(head, (at + count) * k_row);
        to.v.resize(head, (at + count) * v_row);
        std::memcpy(to.k.lane(head) + at * k_row, from.k.lane(head), count * k_row);
        std::memcpy(to.v.lane(head) + at * v_row, from.v.lane(head), count * v_row);
        make_room(to.positions[h], at + count);
        to.positions[h].insert(to.positions[h].end(), from.positions[h].begin(),
                               from.positions[h].end());
        to.slots[h] += from.slots[h];
    }
    if (to.bias.empty() && from.bias.empty()) return;
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        if (to.bias.size() <= h) to.bias.emplace_back(memory_);
        const auto count = static_cast<std::size_t>(to.slots[h]);
        const auto before = count - static_cast<std::size_t>(from.slots[h]);
        make_room(to.bias[h], count);
        to.bias[h].resize(before);
        if (from.bias.empty()) {
            to.bias[h].resize(count);
        } else {
            to.bias[h].insert(to.bias[h].end(), from.bias[h].begin(), from.bias[h].end());
        }
    }
}

void LayerStore::encode_row(const Exec& exec, bool keys, int kv_head, std::int64_t slot,
                            const float* row) {
    const KvEncoding& how = keys ? plan_.k : plan_.v;
    const LaneMemory& memory = keys ? own().k : own().v;
    const std::int64_t dim = plan_.head_dim;
    std::byte* to = memory.lane(kv_head) + static_cast<std::size_t>(slot) * how.row_bytes(dim);
    if (how.f64) {
        std::copy_n(row, dim, reinterpret_cast<double*>(to));
        return;
    }
    const View x = {const_cast<float*>(row), DType::kF32, 1, dim, dim};
    ops::encode_kv(exec, x, plan_.head_dim, how.layout, to, how.row_bytes(dim), 0);
}

void LayerStore::merge(const Exec& exec, int kv_head, const KvMerge& merge) {
    const auto dim = static_cast<std::size_t>(plan_.head_dim);
    std::vector<float> row(dim);
    const View one = {row.data(), DType::kF32, 1, plan_.head_dim, plan_.head_dim};
    const auto own_first = slots(kv_head) - own().slots[static_cast<std::size_t>(kv_head)];
    for (const bool keys : {true, false}) {
        const auto& weights = keys ? merge.key_weights : merge.value_weights;
        std::vector<double> sum(dim);
        for (std::size_t i = 0; i < merge.slots.size(); ++i) {
            read(exec, keys, kv_head, merge.slots[i], one);
            for (std::size_t d = 0; d < dim; ++d)
                sum[d] += static_cast<double>(weights[i]) * static_cast<double>(row[d]);
        }
        std::transform(sum.begin(), sum.end(), row.begin(),
                       [](double x) { return static_cast<float>(x); });
        encode_row(exec, keys, kv_head, merge.into - own_first, row.data());
    }
    if (merge.bias == 0 && own().bias.empty()) return;
    if (own().bias.empty()) {
        for (const auto& positions : own().positions) {
            auto& bias = own().bias.emplace_back(memory_);
            make_room(bias, positions.size());
            bias.resize(positions.size());
        }
    }
    auto& bias = own().bias[static_cast<std::size_t>(kv_head)];
    double mass = 0;  // of members that stand for several tokens already
    for (const std::int32_t slot : merge.slots)
        mass += std::exp(static_cast<double>(bias[static_cast<std::size_t>(slot - own_first)]));
    bias[static_cast<std::size_t>(merge.into - own_first)] =
        merge.bias + static_cast<float>(std::log(mass / static_cast<double>(merge.slots.size())));
}

namespace {

void reorder(LaneMemory& memory, int lane, std::size_t row, std::span<const std::int32_t> order) {
    for (std::size_t i = 0; i < order.size(); ++i) {
        const auto from = static_cast<std::size_t>(order[i]);
        if (from != i)
            std::memcpy(memory.lane(lane) + i * row, memory.lane(lane) + from * row, row);
    }
    memory.resize(lane, order.size() * row);
}

// Which slot each of the new ones takes its contents from: the kept ones in their order, or those
// beyond the new end in the places of those that go.
std::vector<std::int32_t> order_of(std::span<const std::int32_t> keep, bool fill_holes) {
    std::vector<std::int32_t> order(keep.begin(), keep.end());
    if (!fill_holes) return order;
    const auto count = static_cast<std::int32_t>(keep.size());
    const auto staying =
        static_cast<std::size_t>(std::lower_bound(keep.begin(), keep.end(), count) - keep.begin());
    std::size_t next = staying;
    for (std::int32_t i = 0; i < count; ++i) {
        const bool stays = std::binary_search(
            keep.begin(), keep.begin() + static_cast<std::ptrdiff_t>(staying), i);
        order[static_cast<std::size_t>(i)] = stays ? i : keep[next++];
    }
    return order;
}

}  // namespace

SlotOrder LayerStore::apply(const Exec& exec, const KvEdit& edit, bool fill_holes) {
    make_sparse();
    SlotOrder all(static_cast<std::size_t>(plan_.kv_heads));
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        for (const KvMerge& m : edit.heads[h].merges) merge(exec, head, m);
        auto next = edit.heads[h].keep.begin();
        const auto end = edit.heads[h].keep.end();
        std::int32_t first = 0;
        for (auto& part : parts_) {
            const auto limit = first + static_cast<std::int32_t>(part->slots[h]);
            std::vector<std::int32_t> keep;
            for (; next != end && *next < limit; ++next) keep.push_back(*next - first);
            const std::vector<std::int32_t> order = order_of(keep, fill_holes);
            reorder(part->k, head, k_row_bytes(*part), order);
            reorder(part->v, head, plan_.v.row_bytes(plan_.head_dim), order);
            reorder(part->positions[h], order);
            if (!part->bias.empty()) reorder(part->bias[h], order);
            part->slots[h] = std::ssize(order);
            for (const std::int32_t slot : order) all[h].push_back(first + slot);
            first = limit;
        }
    }
    std::erase_if(parts_, [&](const auto& part) {
        return part != parts_.back() &&
               std::all_of(part->slots.begin(), part->slots.end(), [](auto n) { return n == 0; });
    });
    if (!edit.channels.empty()) narrow(exec, edit);
    return all;
}

// Keys before a position go into a part that holds some channels of them.
void LayerStore::narrow(const Exec& exec, const KvEdit& edit) {
    const std::int64_t dim = plan_.head_dim;
    const auto width = std::ssize(edit.channels.front());
    const std::shared_ptr<Part> from = parts_.back();
    std::int64_t most = 0;
    for (const auto& positions : from->positions) {
        most = std::max<std::int64_t>(
            most, std::count_if(positions.begin(), positions.end(),
                                [&](auto p) { return p < edit.narrow_before; }));
    }
    const auto narrowed = new_part(most, width), wide = new_part(plan_.all_slots(), dim);
    narrowed->channels = edit.channels;
    const std::size_t element = plan_.k.row_bytes(1), v_row = plan_.v.row_bytes(dim);
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        for (const auto& part : {narrowed, wide}) {
            const bool few = part == narrowed;
            auto& positions = part->positions.emplace_back(memory_);
            std::vector<std::size_t> slots;
            for (std::size_t i = 0; i < from->positions[h].size(); ++i) {
                if ((from->positions[h][i] < edit.narrow_before) == few) slots.push_back(i);
            }
            make_room(positions, slots.size());
            part->slots[h] = std::ssize(slots);
            const std::size_t k_row =
                few ? static_cast<std::size_t>(width) * element : plan_.k.row_bytes(dim);
            part->k.resize(head, slots.size() * k_row);
            part->v.resize(head, slots.size() * v_row);
            if (!from->bias.empty()) {
                auto& bias = part->bias.emplace_back(memory_);
                make_room(bias, slots.size());
                for (const std::size_t i : slots) bias.push_back(from->bias[h][i]);
            }
            for (std::size_t i = 0; i < slots.size(); ++i) {
                positions.push_back(from->positions[h][slots[i]]);
                std::memcpy(part->v.lane(head) + i * v_row, from->v.lane(head) + slots[i] * v_row,
                            v_row);
                const std::byte* key = from->k.lane(head) + slots[i] * plan_.k.row_bytes(dim);
                std::byte* to = part->k.lane(head) + i * k_row;
                if (!few) {
                    std::memcpy(to, key, k_row);
                    continue;
                }
                for (const std::int16_t c : edit.channels[h]) {
                    std::memcpy(to, key + static_cast<std::size_t>(c) * element, element);
                    to += element;
                }
            }
        }
    }
    (void)exec;
    parts_.back() = narrowed;
    parts_.push_back(wide);
}

// --- forks ---

void LayerStore::share(LayerStore& other) {
    if (plan_.device_slots > 0) {
        throw Error(Exit::kUsage, "--device", "keys and values on a CUDA device are not shared",
                    "use --device cpu");
    }
    sparse_ = other.sparse_;
    parts_ = other.parts_;
    Part& shared = own();
    const bool whole = std::any_of(shared.slots.begin(), shared.slots.end(),
                                   [](std::int64_t n) { return n >= kTile; });
    if (plan_.ring() || !whole) {
        parts_.back() = copy(shared);
        return;
    }
    // Each goes on with a copy of what fills no whole tile.
    const auto mine = copy_tail(shared), theirs = copy_tail(shared);
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto count = static_cast<std::size_t>(shared.slots[h] / kTile * kTile);
        shared.slots[h] = static_cast<std::int64_t>(count);
        shared.k.resize(head, count * k_row_bytes(shared));
        shared.v.resize(head, count * plan_.v.row_bytes(plan_.head_dim));
        const auto trim = [&](auto& values) {
            values.resize(count);
            make_room(values, count);
        };
        if (sparse_) trim(shared.positions[h]);
        if (!shared.bias.empty()) trim(shared.bias[h]);
    }
    parts_.push_back(mine);
    other.parts_.push_back(theirs);
}

std::shared_ptr<LayerStore::Part> LayerStore::copy_tail(const Part& from) const {
    auto part = new_part(plan_.all_slots(), plan_.head_dim);
    part->first_position = from.first_position + from.slots.front() / kTile * kTile;
    const std::size_t k_row = k_row_bytes(from), v_row = plan_.v.row_bytes(plan_.head_dim);
    for (int head = 0; head < plan_.kv_heads; ++head) {
        const auto h = static_cast<std::size_t>(head);
        const auto first = static_cast<std::size_t>(from.slots[h] / kTile * kTile);
        const auto count = static_cast<std::size_t>(from.slots[h]) - first;
        part->slots[h] = static_cast<std::int64_t>(count);
        part->k.resize(head, count * k_row);
        part->v.resize(head, count * v_row);
        std::memcpy(part->k.lane(head), from.k.lane(head) + first * k_row, count * k_row);
        std::memcpy(part->v.lane(head), from.v.lane(head) + first * v_row, count * v_row);
        const auto tail = [&](const auto& values, auto& to) {
            auto& list = to.emplace_back(memory_);
            make_room(list, count);
            list.assign(values[h].begin() + static_cast<std::ptrdiff_t>(first), values[h].end());
        };
        if (sparse_) tail(from.positions, part->positions);
        if (!from.bias.empty()) tail(from.bias, part->bias);
    }
    return part;
}

std::int64_t LayerStore::rollback_floor(std::int64_t written) const noexcept {
    if (!plan_.ring() || written <= plan_.slots) return 0;
    // The next query reads `keys` positions, its own included, and must find them all.
    const std::int64_t oldest = ceil_div(written, kTile) * kTile - plan_.slots;
    return oldest + plan_.band.sinks + plan_.band.window - 1;
}

}  // namespace thimble
