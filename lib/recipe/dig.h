// SPDX-License-Identifier: Apache-2.0
// Reading records and reports, whose keys may be absent.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "io/json.h"

namespace thimble::recipe {

// Follows keys through objects; null when one is absent.
[[nodiscard]] inline const Json* dig(const Json& json, std::initializer_list<const char*> keys) {
    const Json* at = &json;
    for (const char* key : keys) {
        at = at->find(key);
        if (at == nullptr) return nullptr;
    }
    return at;
}

// A string as it is, anything else as JSON, "" when absent.
[[nodiscard]] inline std::string text_at(const Json& json,
                                         std::initializer_list<const char*> keys) {
    const Json* found = dig(json, keys);
    if (found == nullptr) return {};
    return found->is_string() ? found->as_string("record") : found->dump();
}

[[nodiscard]] inline std::int64_t bytes_at(const Json& json,
                                           std::initializer_list<const char*> keys) {
    const Json* found = dig(json, keys);
    return found != nullptr && found->is_int() ? found->as_int("bytes") : 0;
}

}  // namespace thimble::recipe
