// SPDX-License-Identifier: Apache-2.0
// Any bytes as a machine profile: an Error, or finite rates at every thread count.
#include "cost/profile.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/error.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        const cost::MachineProfile profile =
            cost::profile_from_json(parse_json(text, "fuzz"), "fuzz");
        for (const std::int64_t threads : {std::int64_t{1}, std::int64_t{3}, std::int64_t{1000},
                                           std::numeric_limits<std::int64_t>::max()}) {
            const cost::RateAtThreads rate = profile.at(threads);
            if (!(rate.read_bytes_per_second > 0) || !std::isfinite(rate.f32_ops_per_second)) {
                std::abort();
            }
        }
        (void)cost::describe(profile);
        (void)cost::profile_from_json(cost::to_json(profile), "again");
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
