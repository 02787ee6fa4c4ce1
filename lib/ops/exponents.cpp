// SPDX-License-Identifier: Apache-2.0
#include "ops/exponents.h"

#include "core/error.h"
#include "ops/dispatch.h"

namespace thimble::ops {

ExponentDecoder::ExponentDecoder(const ExponentCode& code, Isa isa) : code_(code), isa_(isa) {
    if (!code.sound()) throw Error(Exit::kFailure, "ExponentDecoder", "the code is not complete");
    code_.table(table_.data());
}

bool ExponentDecoder::decode(std::span<const std::uint16_t> words,
                             const std::uint16_t* readable_end, std::span<const std::uint8_t> rest,
                             std::span<std::uint16_t> out) const {
    bool sound = false;
    kernels(isa_).decode_exponents({table_.data(), code_.exponents, words.data(),
                                    words.data() + words.size(), readable_end, rest.data(),
                                    static_cast<std::int64_t>(rest.size()), out.data(), &sound});
    return sound;
}

}  // namespace thimble::ops
