// SPDX-License-Identifier: Apache-2.0
#include "tensor/device.h"

#include "core/error.h"
#include "tensor/view.h"

namespace thimble {

Device device_named(std::string_view name) noexcept {
    if (name == "cuda") return Device::kCuda;
    return name == "ref" ? Device::kRef : Device::kCpu;
}

void throw_device_error(const cuda::Failure& failure) {
    using Kind = cuda::Failure::Kind;
    switch (failure.kind()) {
        case Kind::kNotBuilt:
            throw Error(Exit::kUsage, "--device cuda", failure.what(),
                        "configure with -DTHIMBLE_CUDA=on, or use --device cpu");
        case Kind::kNoDevice:
            throw Error(Exit::kUsage, "--device cuda", failure.what(),
                        "use --device cpu, or look at CUDA_VISIBLE_DEVICES");
        case Kind::kDriverTooOld:
            throw Error(Exit::kUsage, "--device cuda", failure.what(),
                        "update the driver, or build with an older toolkit");
        case Kind::kOutOfMemory:
            throw Error(Exit::kOverBudget, "--device cuda", failure.what(),
                        "state what is free with --max-memory vram=..., or lower --gpu-layers, "
                        "--ctx-size or --batch-size");
        case Kind::kBroken:
            break;
    }
    throw Error(Exit::kFailure, "--device cuda", failure.what());
}

}  // namespace thimble
