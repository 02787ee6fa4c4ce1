// SPDX-License-Identifier: Apache-2.0
// Any bytes as a list of checkpoints: ends that rise, sums of the right form.
#include "io/checkpoint_log.h"

#include <cstdlib>

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const std::vector<Checkpoint> entries = parse_checkpoints(text, "key");
    for (std::size_t i = 0; i < entries.size(); ++i) {
        if (entries[i].sha256.size() != 64) std::abort();
        if (i > 0 && entries[i].end <= entries[i - 1].end) std::abort();
    }
    return 0;
}
