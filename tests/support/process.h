// SPDX-License-Identifier: Apache-2.0
// Runs a child process for tests of the tools: arguments, stdin, environment and limits in, output
// and exit status out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thimble::test {

struct ProcessOptions {
    std::string input = {};  // fed to stdin
    bool close_stdin = false, close_stdout = false;
    std::string stdout_path =
        {};  // stdout goes to this file or device instead of ProcessResult::out
    std::size_t read_at_most = SIZE_MAX;  // then stdout's reading end is closed, as `head` does
    std::vector<std::pair<std::string, std::string>> environment =
        {};                              // added to this process's own
    std::string directory = {};          // working directory
    std::uint64_t data_limit_bytes = 0;  // RLIMIT_DATA; 0: none
    std::uint64_t file_limit_bytes = 0;  // RLIMIT_FSIZE; 0: none
    int send_signal = 0;                 // sent once stderr contains `signal_after`
    std::string signal_after = {};
    double timeout_seconds = 120;
};

struct ProcessResult {
    int exit = -1;   // exit status, or -1 when ended by a signal
    int signal = 0;  // the signal that ended it
    bool timed_out = false;
    std::string out, err;
    std::uint64_t peak_resident_bytes = 0;
};

[[nodiscard]] ProcessResult run_process(const std::vector<std::string>& command,
                                        const ProcessOptions& options = {});

// build/bin/<name> of this build.
[[nodiscard]] std::string tool_path(std::string_view name);

// A directory that is removed with everything in it.
class TemporaryDirectory {
  public:
    TemporaryDirectory();
    ~TemporaryDirectory();
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    [[nodiscard]] std::string path() const { return path_.string(); }
    [[nodiscard]] std::string file(std::string_view name) const { return (path_ / name).string(); }
    std::string write(std::string_view name, std::string_view text) const;  // returns the path

  private:
    std::filesystem::path path_;
};

[[nodiscard]] std::string read_file(const std::string& path);
void write_file(const std::string& path, std::string_view text);

}  // namespace thimble::test
