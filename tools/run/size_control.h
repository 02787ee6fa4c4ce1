// SPDX-License-Identifier: Apache-2.0
// /memory SIZE in a conversation: a model in blocks (compress --method bitstack) grows or shrinks
// between two answers. What the cache holds stays as it is.
#pragma once

#include <cstdint>
#include <string_view>

#include "model/runner.h"

namespace thimble::run {

struct SizeLimits {
    std::uint64_t other_bytes = 0;          // of the process at its peak, besides weights
    std::uint64_t most_bytes = UINT64_MAX;  // that --max-memory allows
};

class SizeControl {
  public:
    SizeControl(Runner& runner, const SizeLimits& limits) : runner_(runner), limits_(limits) {}
    // Whether a line of the conversation is such a command; then it has been obeyed, or it has been
    // said on stderr why not.
    [[nodiscard]] bool take(std::string_view line);
    // {"blocks": in memory, "all_blocks": stored, "peak_bytes": predicted of the process}; null of
    // a model of one size.
    [[nodiscard]] Json state() const;

  private:
    void resize(std::uint64_t bytes);

    Runner& runner_;
    SizeLimits limits_;
};

}  // namespace thimble::run
