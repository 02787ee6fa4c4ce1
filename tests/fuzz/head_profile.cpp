// SPDX-License-Identifier: Apache-2.0
// Any bytes as a sidecar of retrieval heads: an Error, or a profile that is written the same again.
#include "kv/head_profile.h"

#include <cstdlib>

#include "core/error.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const std::string once = HeadProfile::parse(text, "fuzz.json").json().dump();
        try {
            if (HeadProfile::parse(once, "again").json().dump() != once) std::abort();
        } catch (const Error&) {
            std::abort();  // what we write must be readable
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
