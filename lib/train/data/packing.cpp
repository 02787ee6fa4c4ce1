// SPDX-License-Identifier: Apache-2.0
#include "train/data/packing.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <set>

#include "core/error.h"

namespace thimble::train {

Packing parse_packing(std::string_view name) {
    if (name == "none") return Packing::kNone;
    if (name == "ff") return Packing::kFirstFit;
    if (name == "bfd") return Packing::kBestFit;
    throw Error(Exit::kUsage, "--pack", "'" + escaped(name) + "' is not bfd, ff or none");
}

PackedWindow::PackedWindow(std::pmr::memory_resource* memory)
    : order_(memory), row_of_(memory), members_(memory), begins_(memory), room_(memory) {}

std::int64_t PackedWindow::rows() const noexcept {
    return begins_.empty() ? 0 : std::ssize(begins_) - 1;
}

std::span<const std::uint32_t> PackedWindow::row(std::int64_t index) const noexcept {
    const auto r = static_cast<std::size_t>(index);
    return std::span(members_).subspan(begins_[r], begins_[r + 1] - begins_[r]);
}

void PackedWindow::pack(std::span<const std::uint32_t> lengths, std::uint32_t capacity,
                        Packing how) {
    order_.resize(lengths.size());
    row_of_.resize(lengths.size());
    std::iota(order_.begin(), order_.end(), 0u);
    switch (how) {
        case Packing::kNone:
            std::iota(row_of_.begin(), row_of_.end(), 0u);
            break;
        case Packing::kFirstFit:
            choose_first_fit(lengths, capacity);
            break;
        case Packing::kBestFit:
            choose_best_fit(lengths, capacity);
            break;
    }
    gather();
}

// A tree of the largest room below each node: the first row with room for a sample is found in
// steps of its height. Leaves beyond the begun rows have all the room there is.
void PackedWindow::choose_first_fit(std::span<const std::uint32_t> lengths,
                                    std::uint32_t capacity) {
    const std::size_t leaves = std::bit_ceil(std::max<std::size_t>(lengths.size(), 1));
    room_.assign(2 * leaves, capacity);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        const std::uint32_t length = std::min(lengths[i], capacity);
        std::size_t node = 1;
        while (node < leaves) node = room_[2 * node] >= length ? 2 * node : 2 * node + 1;
        row_of_[i] = static_cast<std::uint32_t>(node - leaves);
        room_[node] -= length;
        for (node /= 2; node > 0; node /= 2)
            room_[node] = std::max(room_[2 * node], room_[2 * node + 1]);
    }
}

void PackedWindow::choose_best_fit(std::span<const std::uint32_t> lengths, std::uint32_t capacity) {
    std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
        return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b;
    });
    std::pmr::set<std::pair<std::uint32_t, std::uint32_t>> open(
        room_.get_allocator().resource());  // (room, row)
    std::uint32_t rows = 0;
    for (std::size_t i = 0; i < order_.size(); ++i) {
        const std::uint32_t length = std::min(lengths[order_[i]], capacity);
        auto found = open.lower_bound({length, 0});
        auto [room, row] = found != open.end() ? *found : std::pair{capacity, rows++};
        if (found != open.end()) open.erase(found);
        row_of_[i] = row;
        if (room > length) open.insert({room - length, row});
    }
}

void PackedWindow::gather() {
    const std::uint32_t rows =
        row_of_.empty() ? 0 : *std::max_element(row_of_.begin(), row_of_.end()) + 1;
    begins_.assign(rows + 1, 0);
    for (const std::uint32_t row : row_of_) ++begins_[row + 1];
    std::partial_sum(begins_.begin(), begins_.end(), begins_.begin());
    members_.resize(order_.size());
    room_.assign(begins_.begin(), begins_.end());  // where the next of each row goes
    for (std::size_t i = 0; i < order_.size(); ++i) members_[room_[row_of_[i]]++] = order_[i];
}

std::uint64_t PackedWindow::most_bytes(std::uint64_t samples) noexcept {
    // Four lists, the tree of first fit or the nodes of best fit: 48 bytes and two words each.
    return 4 * (samples + 2) * sizeof(std::uint32_t) +
           std::max<std::uint64_t>(2 * sizeof(std::uint32_t) * std::bit_ceil(samples + 2),
                                   64 * samples);
}

}  // namespace thimble::train
