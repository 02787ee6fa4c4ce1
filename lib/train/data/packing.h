// SPDX-License-Identifier: Apache-2.0
// Which samples share a row. Best fit decreasing: the longest first, each into the fullest row that
// still takes it; no more than 11/9 of the fewest possible rows, and at most a part of one more
// ("Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms", 1974). First fit:
// in their order, each into the first row that takes it. Equal choices fall to the first sample and
// the first row, so the result depends on the lengths alone.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <span>
#include <string_view>
#include <vector>

namespace thimble::train {

enum class Packing : std::uint8_t { kNone, kFirstFit, kBestFit };
[[nodiscard]] Packing parse_packing(std::string_view name);  // none, ff, bfd

// Rows in the order in which they were begun.
class PackedWindow {
  public:
    explicit PackedWindow(std::pmr::memory_resource* memory);
    // Lengths from 1 to `capacity`; a longer one gets a row of its own.
    void pack(std::span<const std::uint32_t> lengths, std::uint32_t capacity, Packing how);

    [[nodiscard]] std::int64_t rows() const noexcept;
    // Positions within `lengths`, in the order in which they were put in.
    [[nodiscard]] std::span<const std::uint32_t> row(std::int64_t index) const noexcept;
    // Bytes that packing `samples` may take, for plans.
    [[nodiscard]] static std::uint64_t most_bytes(std::uint64_t samples) noexcept;

  private:
    void choose_first_fit(std::span<const std::uint32_t> lengths, std::uint32_t capacity);
    void choose_best_fit(std::span<const std::uint32_t> lengths, std::uint32_t capacity);
    void gather();

    std::pmr::vector<std::uint32_t> order_;             // samples as they are put in
    std::pmr::vector<std::uint32_t> row_of_;            // of order_[i]
    std::pmr::vector<std::uint32_t> members_, begins_;  // row r is members_[begins_[r], ...[r + 1])
    std::pmr::vector<std::uint32_t> room_;              // tokens left, as choosing needs them
};

}  // namespace thimble::train
