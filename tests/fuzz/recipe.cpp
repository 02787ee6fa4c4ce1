// SPDX-License-Identifier: Apache-2.0
// Hostile recipes: YAML, variables, matrices, references, order.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "cli/yaml.h"
#include "core/error.h"
#include "recipe/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        (void)thimble::recipe::parse_recipe(thimble::cli::parse_yaml(text, "fuzz"), "fuzz");
    } catch (const thimble::Error& e) {
        if (e.exit() != thimble::Exit::kUsage) __builtin_trap();
    }
    return 0;
}
