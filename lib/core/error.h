// SPDX-License-Identifier: Apache-2.0
// The one exception type of the library and the process exit codes it maps to.
// The library never prints and never aborts: it throws Error; cli::run_tool catches it once.
#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace thimble {

enum class Exit : int {
    kDone = 0,
    kFailure = 1,     // a fault of ours or of the system that no other code names
    kUsage = 2,       // command line, config, recipe schema, rule that hits nothing, device absent
    kGateFailed = 3,  // a quality gate did not hold
    kBadData = 65,    // malformed or mismatched input file
    kNoInput = 66,    // input or shard missing
    kCannotCreate = 73,  // output cannot be created
    kIo = 74,            // I/O error, disk full
    kAgain = 75,         // checkpointed: run again
    kOverBudget = 77,    // refused: would exceed the stated budget
};

// One error: `where` names the file, flag or key; `what` says what was found and expected; `hint`
// (may be empty) names the cheapest remedy. All three are single-line and already escaped.
class Error : public std::exception {
  public:
    Error(Exit exit, std::string where, std::string what, std::string hint = {});

    [[nodiscard]] Exit exit() const noexcept { return exit_; }
    [[nodiscard]] const std::string& where() const noexcept { return where_; }
    [[nodiscard]] const std::string& problem() const noexcept { return problem_; }
    [[nodiscard]] const std::string& hint() const noexcept { return hint_; }
    // "where: what (hint)"
    [[nodiscard]] const char* what() const noexcept override { return text_.c_str(); }

  private:
    Exit exit_;
    std::string where_, problem_, hint_, text_;
};

// Printable form of untrusted bytes: control characters and invalid UTF-8 become \xNN, long text is
// cut.
[[nodiscard]] std::string escaped(std::string_view text, std::size_t max_bytes = 96);

}  // namespace thimble
