// SPDX-License-Identifier: Apache-2.0
// What device code throws, as errors that say what to do.
#pragma once

#include <utility>

#include "kernels/cuda/failure.h"

namespace thimble {

[[noreturn]] void throw_device_error(const cuda::Failure& failure);

template <class Fn>
decltype(auto) on_device(Fn&& fn) {
    try {
        return std::forward<Fn>(fn)();
    } catch (const cuda::Failure& failure) {
        throw_device_error(failure);
    }
}

}  // namespace thimble
