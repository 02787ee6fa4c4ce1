// SPDX-License-Identifier: Apache-2.0
// What a Runner of a model and options holds, and where its layers are computed: known from
// headers, before any of it exists. The Runner is made from it, and plans are.
#pragma once

#include "model/block.h"
#include "model/device_store.h"
#include "model/runner.h"

namespace thimble {

struct RunnerPlan {
    RunnerPlan(const ModelSource& source, const RunnerOptions& options);

    Exec exec;  // on the host; team and workspace unset
    std::int64_t step_tokens = 0, logit_rows = 0;
    KvOptions kv;
    std::vector<UnitSpec> units;
    std::vector<std::vector<std::unique_ptr<Block>>> layers;  // blocks of each, in order
    DevicePlan device;                                        // no units: all on the host
    KvPlacement places;
    std::vector<AdapterUse> adapters;
    std::size_t host_workspace = 0, device_workspace = 0, device_logits = 0;  // bytes

    [[nodiscard]] bool on_device(std::size_t unit) const noexcept {
        return unit < device.units.size() && device.units[unit] != UnitPlace::kHost;
    }
    [[nodiscard]] bool any_on_device() const noexcept {
        return device.count(UnitPlace::kHost) < std::ssize(device.units);
    }
    // Of device memory, besides weights and KV.
    [[nodiscard]] std::uint64_t fixed_device_bytes() const noexcept;
    [[nodiscard]] std::size_t logit_bytes(std::int64_t rows) const noexcept {
        return static_cast<std::size_t>(rows * spec_->vocab) * size_of(exec.dtype());
    }

  private:
    void place_units(const ModelSource& source, const RunnerOptions& options);
    void place_kv(const CudaOptions& options, std::uint64_t room);
    void add_workspaces();

    const ModelSpec* spec_;
    std::int64_t largest_rank_ = 0;  // of matrices in factors
};

// On the CUDA device, without what makes it usable.
[[nodiscard]] inline Exec device_exec(Exec exec) {
    exec.device = Device::kCuda;
    return exec;
}

}  // namespace thimble
