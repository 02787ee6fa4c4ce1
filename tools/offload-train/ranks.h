// SPDX-License-Identifier: Apache-2.0
// Manners of a tool that mpirun starts several times: the first rank speaks and writes for all, and
// all end with its exit status, or at once where one of them fails.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dist/communicator.h"

namespace thimble::train {

inline constexpr const char* kTool = "offload-train";

// Null where ranks were started that cannot be joined, which stderr has been told.
[[nodiscard]] std::unique_ptr<dist::Communicator> join_ranks();
// What the tool is given: of ranks behind the first, nothing that is written or printed.
[[nodiscard]] std::vector<char*> arguments_of(const dist::Communicator& ranks, int argc,
                                              char** argv);
// Before an error is printed: names the rank, where there are several.
void tell_rank(const dist::Communicator& ranks, std::string& line);
// After the tool's work, which ended with `code`: the exit status of all.
[[nodiscard]] int leave_together(dist::Communicator& ranks, int code);

}  // namespace thimble::train
