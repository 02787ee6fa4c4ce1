// SPDX-License-Identifier: Apache-2.0
// The process's manners towards its terminal or pipeline: stdout for the result only, stderr for
// notes and progress, signals as a flag.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "cli/tool.h"

namespace thimble::cli {

// Thrown when the reader of stdout has gone: unwinds (so partial files are removed) and ends
// quietly.
struct OutputClosed {};

class Console {
  public:
    // Keeps descriptors 0-2 from being reused by files when the caller closed them; installs the
    // signal flag and the log sink.
    explicit Console(std::string_view tool);
    ~Console();
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    void configure(const CommonOptions& common);
    [[nodiscard]] bool stdout_is_json() const noexcept { return stdout_is_json_; }
    [[nodiscard]] bool quiet() const noexcept { return quiet_; }

    // Writes all of it at once. Throws OutputClosed, or Error(kIo) on a closed or full stdout.
    void out(std::string_view text);
    void err(std::string_view text) noexcept;    // whole lines, after clearing a progress bar
    void error(std::string_view line) noexcept;  // "tool: line"
    void progress(std::string_view what, std::int64_t done, std::int64_t total, double rate,
                  std::string_view unit);
    void clear_bar() noexcept;

  private:
    std::string tool_;
    bool stdout_is_json_ = false, quiet_ = false, verbose_ = false;
    bool bar_allowed_ = false, jsonl_ = false, bar_shown_ = false;
    std::chrono::steady_clock::time_point start_, last_progress_{};
    std::string last_what_;
};

// The first of SIGTERM, SIGINT, SIGUSR1 that was seen; 0 if none.
[[nodiscard]] int seen_signal() noexcept;
// Ends the process as SIGPIPE would have.
[[noreturn]] void end_by_sigpipe();

}  // namespace thimble::cli
