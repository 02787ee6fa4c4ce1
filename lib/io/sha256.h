// SPDX-License-Identifier: Apache-2.0
// SHA-256 of bytes and files, for provenance and caches.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace thimble {

class Sha256 {
  public:
    Sha256();
    ~Sha256();
    Sha256(Sha256&&) noexcept;
    void update(std::span<const std::byte> bytes);
    void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
    [[nodiscard]] std::string finish();  // 64 hexadecimal digits; once

  private:
    struct State;
    std::unique_ptr<State> state_;
};

[[nodiscard]] std::string sha256_of(std::string_view text);
inline constexpr std::size_t kHashBufferBytes = std::size_t{1} << 20;
// Streams the file through a buffer of that size. Throws kNoInput or kIo.
[[nodiscard]] std::string sha256_of_file(const std::string& path);

}  // namespace thimble
