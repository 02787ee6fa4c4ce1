// SPDX-License-Identifier: Apache-2.0
// Random orders that depend on numbers alone: swaps by counter-based random numbers
// ("Algorithm 235: Random permutation", 1964).
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "kernels/layout/rng.h"

namespace thimble::train {

// What an order is for: each has its own stream of random numbers.
enum class OrderOf : std::uint64_t { kSamples = 1, kRows = 2, kValidation = 3 };

// Stream `part` (an epoch, say; below 2^32) of what `purpose` and `seed` give, from `counter` on.
template <class T>
void shuffle(std::span<T> items, std::uint64_t seed, OrderOf purpose, std::uint64_t part,
             std::uint64_t counter = 0) {
    constexpr std::uint64_t kData = std::uint64_t{0xda7a}
                                    << 48;  // apart from other users of a seed
    const std::uint64_t stream = kData | static_cast<std::uint64_t>(purpose) << 32 | part;
    for (std::size_t i = items.size(); i > 1; --i) {
        const Philox4 r = philox(seed, counter + i, stream);
        const std::uint64_t bits = static_cast<std::uint64_t>(r.v[1]) << 32 | r.v[0];
        std::swap(items[i - 1], items[bits % i]);
    }
}

}  // namespace thimble::train
