// SPDX-License-Identifier: Apache-2.0
// A recipe's steps as commands for other runners: a shell script, a Makefile, a Slurm batch script.
// Every word is quoted for the shell that will read it. Paths lead from the caller's directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "recipe/runner.h"

namespace thimble::recipe {

struct ShellStep {
    std::string id, base, tool;
    std::vector<std::string> command;
    std::vector<std::string> inputs, outputs;
    std::vector<std::string> directories;  // that must exist before the command
    std::string figures;                   // what the gates read
    std::vector<std::string> gate;         // the command that checks them; empty without gates
    std::vector<std::size_t> needs;
    std::uint64_t ram_bytes = 0;  // predicted; 0: not known yet
};

// All steps, in order. `replace`: tools that would refuse an existing output are told to replace
// it.
[[nodiscard]] std::vector<ShellStep> shell_steps(const Runner& runner, bool replace);
// Where exported runners keep stamps and reports.
[[nodiscard]] std::string export_directory(const Runner& runner);

// Commands to paste into a shell, of the steps that the runner has selected.
[[nodiscard]] std::string shell_script(const Runner& runner);

// Real files are targets; a step without outputs and a gate have stamp files. Error(kUsage) for a
// file name that make cannot hold. `source`: the recipe's name, for a comment.
[[nodiscard]] std::string makefile(const std::vector<ShellStep>& steps, const std::string& source,
                                   const std::string& stamps);

struct BatchOptions {
    std::int64_t cpus = 1;
    std::string time = "04:00:00";
    std::string memory = {};  // "8G": of steps whose need is not known yet; may be empty
};
// One file that submits itself: steps of one matrix and depth are an array job, which waits for
// those it needs. Bash.
[[nodiscard]] std::string batch_script(const std::vector<ShellStep>& steps,
                                       const std::string& source, const std::string& stamps,
                                       const BatchOptions& options);

// What --mem asks for: the prediction and room for the rest of a job, in whole MiB.
[[nodiscard]] std::uint64_t requested_mib(std::uint64_t predicted_bytes);

}  // namespace thimble::recipe
