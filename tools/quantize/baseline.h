// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace thimble {

// Resident memory of the process before it opens a model, and what the heap keeps between two
// pieces of work: measured over formats and models, 8 MiB where files are read, 10 to 11 where they
// are written.
inline constexpr std::uint64_t kBaselineBytes = std::uint64_t{10} << 20;

}  // namespace thimble
