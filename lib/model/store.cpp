// SPDX-License-Identifier: Apache-2.0
#include "model/store.h"

#include <algorithm>

#include "model/stacked_store.h"
#include "model/weight_memory.h"

namespace thimble {
namespace {

bool any_coded(const ModelSource& source, const Exec& exec) {
    return std::ranges::any_of(
        source.tensors(), [&](const SourceTensor& tensor) { return stays_coded(tensor, exec); });
}

// Of the ways that weights can be held the first that fits.
struct Way {
    bool resident;
    StoreOptions options;
};
Way way_for(const ModelSource& source, const Exec& exec, const StoreOptions& options) {
    const bool coded = any_coded(source, exec);
    Way way{true, options};
    way.options.keep_coded = coded;
    if (options.most_bytes == UINT64_MAX) return way;
    for (const bool keep : {false, true}) {
        way.options.keep_coded = keep;
        const StorePlan plan = plan_resident_store(source, exec, way.options);
        if ((coded || !keep) && plan.held_bytes() + plan.staging_bytes <= options.most_bytes)
            return way;
    }
    return {false, way.options};
}

}  // namespace

StorePlan plan_store(const ModelSource& source, const Exec& exec, const StoreOptions& options) {
    if (exec.device == Device::kCpu && any_stacked(source))
        return plan_stacked_store(source, exec, options);
    const Way way = way_for(source, exec, options);
    return (way.resident ? plan_resident_store : plan_streamed_store)(source, exec, way.options);
}

std::unique_ptr<WeightStore> make_store(const ModelSource& source, const Exec& exec,
                                        const StoreOptions& options) {
    if (exec.device == Device::kCpu && any_stacked(source))
        return make_stacked_store(source, exec, options);
    const Way way = way_for(source, exec, options);
    return (way.resident ? make_resident_store : make_streamed_store)(source, exec, way.options);
}

}  // namespace thimble
