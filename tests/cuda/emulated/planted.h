// SPDX-License-Identifier: Apache-2.0
// Kernels that are wrong in one way each, and kernels that are right though a careless checker
// would blame them.
#pragma once

#include <span>

#include "kernels/cuda/stream.h"
#include "kernels/emu/emu.h"

namespace thimble::cuda_test {

inline constexpr int kPlantedFloats = 100;  // 112 bytes short of a multiple of 256

struct Planted {
    const char* name;  // of the kernel
    emu::FaultKind kind;
    const char* says;                             // part of the message
    void (*run)(float* x, cuda::Stream& stream);  // x: kPlantedFloats of them
};
std::span<const Planted> planted();

struct Correct {
    const char* name;
    int outputs;
    float (*want)(int i);
    void (*run)(float* out, cuda::Stream& stream);
};
std::span<const Correct> correct();

// A launch of this shape with this much dynamic shared memory and 256 bytes of static.
void launch_shaped(const unsigned (&grid)[3], const unsigned (&block)[3], std::size_t shared_bytes,
                   cuda::Stream& stream);
// out[i] = x[i] + 1
void launch_increment(const float* x, float* out, int n, cuda::Stream& stream);
// A runtime call and a launch that fail and that nobody looks at.
void forget_runtime_error();
void forget_launch_error();
void launch_unchecked_twice();

}  // namespace thimble::cuda_test
