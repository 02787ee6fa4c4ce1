// SPDX-License-Identifier: Apache-2.0
// GGUF and safetensors files put together field by field, right or wrong, for the tests of the
// readers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "io/gguf.h"

namespace thimble::test {

class RawGguf {
  public:
    template <class T>
    RawGguf& put(T value) {
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
        return *this;
    }
    RawGguf& u32(std::uint32_t v) { return put(v); }
    RawGguf& u64(std::uint64_t v) { return put(v); }
    RawGguf& text(std::string_view v) {
        u64(v.size());
        bytes_ += v;
        return *this;
    }
    RawGguf& header(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
        bytes_ += "GGUF";
        return u32(version).u64(tensors).u64(keys);
    }
    RawGguf& key(std::string_view name, GgufType type) { return text(name).put(type); }
    RawGguf& tensor(std::string_view name, std::initializer_list<std::uint64_t> stored_dims,
                    std::uint32_t type, std::uint64_t offset) {
        text(name).u32(static_cast<std::uint32_t>(stored_dims.size()));
        for (const std::uint64_t dim : stored_dims) u64(dim);
        return u32(type).u64(offset);
    }
    RawGguf& data(std::size_t bytes, std::size_t alignment = 32) {
        bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment, '\0');
        bytes_.append(bytes, 'd');
        return *this;
    }
    [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }

  private:
    std::string bytes_;
};

inline GgufHeader parse_gguf(std::string_view bytes) {
    Cursor cursor(std::as_bytes(std::span(bytes)), "hostile.gguf");
    return parse_gguf_header(cursor, bytes.size());
}

inline std::string raw_safetensors(std::string_view header, std::size_t data_bytes) {
    const std::uint64_t length = header.size();
    std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
    bytes += header;
    bytes.append(data_bytes, 'd');
    return bytes;
}

}  // namespace thimble::test
