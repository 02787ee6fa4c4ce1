// SPDX-License-Identifier: Apache-2.0
#include "model/store.h"

#include <algorithm>

#include "model/stacked_store.h"

namespace thimble {
namespace {

bool fits_whole(const ModelSource& source, const Exec& exec, const StoreOptions& options) {
    if (options.most_bytes == UINT64_MAX) return !any_coded(source);
    const StorePlan plan = plan_resident_store(source, exec, options);
    return plan.held_bytes() + plan.staging_bytes <= options.most_bytes;
}

}  // namespace

bool any_coded(const ModelSource& source) {
    return std::ranges::any_of(source.tensors(), [](const SourceTensor& tensor) {
        return tensor.packed && tensor.packed->kept_bytes() > 0;
    });
}

StorePlan plan_store(const ModelSource& source, const Exec& exec, const StoreOptions& options) {
    if (exec.device == Device::kCpu && any_stacked(source))
        return plan_stacked_store(source, exec, options);
    return fits_whole(source, exec, options) ? plan_resident_store(source, exec, options)
                                             : plan_streamed_store(source, exec, options);
}

std::unique_ptr<WeightStore> make_store(const ModelSource& source, const Exec& exec,
                                        const StoreOptions& options) {
    if (exec.device == Device::kCpu && any_stacked(source))
        return make_stacked_store(source, exec, options);
    return fits_whole(source, exec, options) ? make_resident_store(source, exec, options)
                                             : make_streamed_store(source, exec, options);
}

}  // namespace thimble
