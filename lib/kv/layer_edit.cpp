// SPDX-License-Identifier: Apache-2.0
// How a store of one layer changes once its slots are written: edits of policies, and forks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "kv/layer_store.h"
#include "kv/slot_list.h"
#include "ops/encode.h"

namespace thimble {
namespace {

constexpr std::int64_t kTile = ops::kAttentionTile;

}  // namespace

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
    std::size_t at = 0, next = staying;
    for (std::int32_t i = 0; i < count; ++i) {
        const bool stays = at < staying && keep[at] == i;
        order[static_cast<std::size_t>(i)] = keep[stays ? at++ : next++];
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

}  // namespace thimble
