// SPDX-License-Identifier: Apache-2.0
// How long work tells how far it is, and is told to stop.
#pragma once

#include <cstdint>
#include <functional>

namespace thimble {

// What is being done, how much of it is done, and how much there is. Whether to go on.
using Progress = std::function<bool(const char* what, std::int64_t done, std::int64_t total)>;
// Thrown where progress said to stop.
struct Stopped {};

}  // namespace thimble
