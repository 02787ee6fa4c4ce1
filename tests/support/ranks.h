// SPDX-License-Identifier: Apache-2.0
// Starts several processes as ranks, for tests.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace thimble::test {

// The words that start a command `ranks` times, any number on any machine. Nothing, and a message,
// where the build has no MPI or the machine no mpirun.
[[nodiscard]] std::optional<std::vector<std::string>> mpirun(int ranks);

}  // namespace thimble::test
