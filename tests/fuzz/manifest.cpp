// SPDX-License-Identifier: Apache-2.0
// Any bytes as a manifest: an Error, or entries that are found again and written back the same.
#include "quant/manifest.h"

#include <cstdlib>

#include "core/error.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const Manifest manifest =
            Manifest::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
        if (manifest.entries().empty()) std::abort();
        for (const ManifestEntry& entry : manifest.entries()) {
            if (entry.sha256.size() != 64 || entry.file.empty()) std::abort();
            if ((entry.what == Summed::kTensor) == entry.tensor.empty()) std::abort();
            if (manifest.find(entry.what, entry.file, entry.tensor) == nullptr) std::abort();
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
