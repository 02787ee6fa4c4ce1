// SPDX-License-Identifier: Apache-2.0
#include "io/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/file.h"
#include "tensor/buffer.h"

namespace thimble {

struct Sha256::State {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    ~State() { EVP_MD_CTX_free(context); }
};

namespace {
void require(bool ok) {
    if (!ok) throw Error(Exit::kFailure, "SHA-256", "libcrypto failed");
}
}  // namespace

Sha256::Sha256() : state_(std::make_unique<State>()) {
    require(state_->context != nullptr &&
            EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
    require(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::finish() {
    static constexpr char kHex[] = "0123456789abcdef";
    std::array<unsigned char, 32> digest{};
    unsigned length = 0;
    require(EVP_DigestFinal_ex(state_->context, digest.data(), &length) == 1 && length == 32);
    std::string text;
    for (const unsigned char byte : digest) {
        text += kHex[byte >> 4];
        text += kHex[byte & 15];
    }
    return text;
}

std::string sha256_of(std::string_view text) {
    Sha256 hash;
    hash.update(text);
    return hash.finish();
}

std::string sha256_of_file(const std::string& path) {
    const File file(path);
    Buffer buffer(kHashBufferBytes, Purpose::kIo);
    Sha256 hash;
    for (std::uint64_t at = 0; at < file.bytes();) {
        const auto chunk = buffer.span<std::byte>().first(
            std::min<std::uint64_t>(buffer.bytes(), file.bytes() - at));
        file.read(at, chunk);
        hash.update(chunk);
        at += chunk.size();
    }
    return hash.finish();
}

}  // namespace thimble
