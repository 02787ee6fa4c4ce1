// SPDX-License-Identifier: Apache-2.0
#include "io/cursor.h"

#include <algorithm>

namespace thimble {
namespace {
constexpr std::size_t kWindowBytes = 256 * 1024;
}

Cursor::Cursor(const File& file, std::uint64_t max_bytes)
    : file_(&file), name_(file.path()), end_(std::min(file.bytes(), max_bytes)) {}

Cursor::Cursor(std::span<const std::byte> bytes, std::string name)
    : name_(std::move(name)), window_(bytes), end_(bytes.size()) {}

void Cursor::require(std::uint64_t count, std::uint64_t unit_bytes, std::string_view what) const {
    if (count > remaining() / unit_bytes) {
        throw error(std::string(what) + " needs " + std::to_string(count) + " x " +
                        std::to_string(unit_bytes) + " bytes but only " +
                        std::to_string(remaining()) + " are left",
                    "the file is truncated or corrupt");
    }
}

void Cursor::read_bytes(std::span<std::byte> out, std::string_view what) {
    require(out.size(), 1, what);
    while (!out.empty()) {
        const std::uint64_t at = position_ - window_begin_;
        if (at < window_.size()) {
            const std::size_t n = std::min<std::size_t>(out.size(), window_.size() - at);
            std::memcpy(out.data(), window_.data() + at, n);
            out = out.subspan(n);
            position_ += n;
            continue;
        }
        if (out.size() >= kWindowBytes) {
            file_->read(position_, out);
            position_ += out.size();
            return;
        }
        storage_.resize(std::min<std::uint64_t>(kWindowBytes, remaining()));
        window_ = std::as_bytes(std::span(storage_));
        window_begin_ = position_;
        file_->read(position_, std::as_writable_bytes(std::span(storage_)));
    }
}

std::string Cursor::read_string(std::uint64_t max_bytes, std::string_view what) {
    const auto length = read<std::uint64_t>(what);
    if (length > max_bytes) {
        throw error(std::string(what) + " of " + std::to_string(length) + " bytes; at most " +
                    std::to_string(max_bytes) + " are accepted");
    }
    require(length, 1, what);
    std::string text(length, '\0');
    read_bytes(std::as_writable_bytes(std::span(text)), what);
    return text;
}

Error Cursor::error(std::string what, std::string hint) const {
    return {Exit::kBadData, escaped(name_, 1024),
            std::move(what) + ", at byte " + std::to_string(position_), std::move(hint)};
}

}  // namespace thimble
