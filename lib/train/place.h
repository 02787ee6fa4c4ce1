// SPDX-License-Identifier: Apache-2.0
// Where training's memory lies: what operations look at where they run, what the optimizer looks at
// and what only waits in host memory.
#pragma once

#include "ops/exec.h"
#include "tensor/buffer.h"

namespace thimble::train {

// The views of operations on exec.
[[nodiscard]] inline Place place_of(const Exec& exec) noexcept {
    return exec.device == Device::kCuda ? Place::kDevice : Place::kHost;
}
// Host memory that these are copied from and to.
[[nodiscard]] inline Place host_place_of(const Exec& exec) noexcept {
    return exec.device == Device::kCuda ? Place::kPinned : Place::kHost;
}
// Floats of a buffer, as copies take them.
[[nodiscard]] inline View floats_of(Buffer& buffer) noexcept {
    const auto n = static_cast<std::int64_t>(buffer.bytes() / sizeof(float));
    return {buffer.data(), DType::kF32, n > 0 ? 1 : 0, n, n};
}

}  // namespace thimble::train
