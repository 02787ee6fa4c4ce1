// SPDX-License-Identifier: Apache-2.0
// Any bytes as JSON: an Error, or a value whose text is parsed to the same text again.
#include "io/json.h"

#include <cstdlib>

#include "core/error.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const std::string once = parse_json(text, "fuzz.json").dump();
        try {
            if (parse_json(once, "again").dump() != once) std::abort();
            if (parse_json(parse_json(once, "again").dump(1), "indented").dump() != once)
                std::abort();
        } catch (const Error&) {
            std::abort();  // what we write must be readable
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
