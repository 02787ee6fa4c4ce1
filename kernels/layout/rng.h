// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: the value depends on (seed, counter) alone, never on call order or
// threads. Philox4x32-10, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), section 4.3.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define THIMBLE_HOST_DEVICE __host__ __device__
#elif defined(THIMBLE_ISA)
// In per-ISA files no out-of-line copy may exist: the linker could pick it for every caller.
#define THIMBLE_HOST_DEVICE __attribute__((always_inline))
#else
#define THIMBLE_HOST_DEVICE
#endif

namespace thimble {

struct Philox4 {
    std::uint32_t v[4];
};

THIMBLE_HOST_DEVICE inline Philox4 philox(std::uint64_t seed, std::uint64_t counter,
                                          std::uint64_t stream = 0) {
    std::uint32_t k0 = static_cast<std::uint32_t>(seed),
                  k1 = static_cast<std::uint32_t>(seed >> 32);
    Philox4 x{{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
               static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}};
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = static_cast<std::uint64_t>(0xD2511F53u) * x.v[0];
        const std::uint64_t b = static_cast<std::uint64_t>(0xCD9E8D57u) * x.v[2];
        x = Philox4{
            {static_cast<std::uint32_t>(b >> 32) ^ x.v[1] ^ k0, static_cast<std::uint32_t>(b),
             static_cast<std::uint32_t>(a >> 32) ^ x.v[3] ^ k1, static_cast<std::uint32_t>(a)}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return x;
}

// Uniform in [0, 1) with 24 random bits.
THIMBLE_HOST_DEVICE inline float unit_float(std::uint32_t bits) {
    return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

}  // namespace thimble
