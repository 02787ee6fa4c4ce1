// SPDX-License-Identifier: Apache-2.0
// Lists with an entry per slot grow by steps, so that what they hold can be told before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

namespace thimble {

inline constexpr std::int64_t kSlotListStep = 64;

// Entries that a list of `count` has memory for.
[[nodiscard]] constexpr std::int64_t slot_list_room(std::int64_t count) {
    return (count + kSlotListStep - 1) / kSlotListStep * kSlotListStep;
}

// Makes the list's memory what `count` entries need, no more and no less.
template <class T>
void make_room(std::pmr::vector<T>& values, std::size_t count) {
    const auto wanted = static_cast<std::size_t>(slot_list_room(static_cast<std::int64_t>(count)));
    if (wanted == values.capacity()) return;
    std::pmr::vector<T> other(values.get_allocator());
    other.reserve(wanted);
    other.assign(values.begin(), values.end());
    values.swap(other);
}

// Entry order[i] moves to i, for an order that reads no entry after it was overwritten.
template <class T>
void reorder(std::pmr::vector<T>& values, std::span<const std::int32_t> order) {
    for (std::size_t i = 0; i < order.size(); ++i)
        values[i] = values[static_cast<std::size_t>(order[i])];
    values.resize(order.size());
    make_room(values, values.size());
}

}  // namespace thimble
