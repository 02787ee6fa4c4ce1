// SPDX-License-Identifier: Apache-2.0
#include "models.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>

namespace thimble::test {
namespace {

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::string{} : std::string{value};
}

std::filesystem::path models_directory() {
    if (const std::string given = variable("THIMBLE_MODELS"); !given.empty()) return given;
    const std::string cache = variable("XDG_CACHE_HOME");
    const std::filesystem::path base = cache.empty()
                                           ? std::filesystem::path(variable("HOME")) / ".cache"
                                           : std::filesystem::path(cache);
    return base / "thimble" / "models";
}

}  // namespace

std::optional<std::string> real_model(const std::string& file) {
    const std::filesystem::path path = models_directory() / file;
    if (std::filesystem::exists(path)) return path.string();
    if (variable("THIMBLE_REQUIRE_MODELS") == "1") {
        FAIL_CHECK("THIMBLE_REQUIRE_MODELS is set and there is no ", path.string());
    } else {
        MESSAGE("SKIPPED: no ", path.string(), "; run scripts/fetch_models.sh");
    }
    return std::nullopt;
}

}  // namespace thimble::test
