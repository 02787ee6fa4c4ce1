// SPDX-License-Identifier: Apache-2.0
// Any text as a gate: an Error of usage, or a gate whose names are figures' names.
#include "eval/gate.h"

#include <cstdlib>

#include "core/error.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const Gate gate(std::string(reinterpret_cast<const char*>(data), size), "fuzz");
        std::vector<eval::Figure> figures;
        for (const std::string& name : gate.names()) {
            if (name.empty() || escaped(name, name.size()) != name) std::abort();
            figures.push_back({name, 1, 0});
        }
        if (describe(gate, eval::check_gate(gate, figures)).empty()) std::abort();
    } catch (const Error& e) {
        if (e.exit() != Exit::kUsage) std::abort();
    }
    return 0;
}
