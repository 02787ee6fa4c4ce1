// SPDX-License-Identifier: Apache-2.0
// Runs one tool as a child process: no shell, stdin empty, stdout handed on, stderr inherited.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::recipe {

struct ChildOptions {
    std::function<void(std::string_view)> on_stdout = {};  // pieces as they come; may throw
    std::function<int()> pending_signal =
        {};                     // a signal to hand on to the child, or 0; may be empty
    bool quiet_stderr = false;  // discarded
};

// Exit code, or 128 + n when a signal ended it. Throws Error(kFailure) when it cannot be started.
[[nodiscard]] int run_child(const std::vector<std::string>& command, const ChildOptions& options);

// Quoted for a POSIX shell where needed.
[[nodiscard]] std::string shell_quoted(std::string_view word);
[[nodiscard]] std::string shell_line(const std::vector<std::string>& command);

}  // namespace thimble::recipe
