// SPDX-License-Identifier: Apache-2.0
// Steps of one token read the same matrices in the same order, and what lies between two of them
// leaves the memory idle. What followed a matrix last time is what waiting threads fetch after it
// this time.
#pragma once

#include <cstddef>
#include <unordered_map>
#include <vector>

#include "core/team.h"

namespace thimble {

class ReadAhead {
  public:
    // So much a thread fetches at most: its second cache holds this, and what it works with.
    static constexpr std::size_t kMostBytes = std::size_t{256} << 10;

    // The team's next run reads from `place` on; what each thread reads of it.
    void pass(Team& team, const std::byte* place, const std::vector<Readings>& of_threads);

  private:
    std::unordered_map<const std::byte*, std::vector<Readings>> next_;  // after a place
    const std::byte* last_ = nullptr;
};

}  // namespace thimble
