// SPDX-License-Identifier: Apache-2.0
// Reads a little-endian header front to back. Every length is compared with the bytes left by
// subtraction before it is used, so no declared number can move the position out of the file.
#pragma once

#include <bit>
#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "io/file.h"

namespace thimble {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

class Cursor {
  public:
    // Reads through a window of the file; positions past `max_bytes` count as past the end.
    Cursor(const File& file, std::uint64_t max_bytes);
    Cursor(std::span<const std::byte> bytes, std::string name);

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] std::uint64_t position() const noexcept { return position_; }
    [[nodiscard]] std::uint64_t remaining() const noexcept { return end_ - position_; }

    // Throws unless `count` items of at least `unit_bytes` each fit in the bytes left.
    void require(std::uint64_t count, std::uint64_t unit_bytes, std::string_view what) const;
    void read_bytes(std::span<std::byte> out, std::string_view what);
    template <class T>
    [[nodiscard]] T read(std::string_view what) {
        static_assert(std::is_trivially_copyable_v<T>);
        T value;
        read_bytes(std::as_writable_bytes(std::span(&value, 1)), what);
        return value;
    }
    // u64 length, then that many bytes.
    [[nodiscard]] std::string read_string(std::uint64_t max_bytes, std::string_view what);

    // Error(kBadData) naming the file and the position.
    [[nodiscard]] Error error(std::string what, std::string hint = {}) const;

  private:
    const File* file_ = nullptr;
    std::string name_;
    std::span<const std::byte> window_;  // bytes [window_begin_, window_begin_ + size) of the file
    std::uint64_t window_begin_ = 0, position_ = 0, end_ = 0;
    std::string storage_;  // of the window, when it is read from a file
};

}  // namespace thimble
