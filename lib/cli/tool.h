// SPDX-License-Identifier: Apache-2.0
// What every tool's main() calls: parse, plan, check the budget, run, report; the single catch.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/plan.h"
#include "core/team.h"
#include "io/json.h"
#include "kernels/layout/isa.h"
#include "tensor/view.h"

namespace thimble::cli {

// Options that every command takes. Beside them stand the ones that describe the command itself:
// --config --print-config --print-schema --list --help --version.
struct CommonOptions {
    std::string max_memory;      // ram=...,vram=...,disk=...
    std::int64_t threads = 0;    // 0: default_threads()
    std::string device = "cpu";  // cpu | cuda | ref
    std::string cpu_isa = "auto";
    std::int64_t seed = 0;
    std::string json;               // FILE or "-": the JSON report
    std::string progress = "auto";  // auto | none | jsonl
    bool dry_run = false;
    bool quiet = false;    // warnings and progress only
    bool verbose = false;  // debug notes too
    void visit(OptionVisitor& v);
};

class Console;

struct Context {
    const CommonOptions& common;
    Team& team;
    Isa isa;
    Device device;
    Console& console;
    // Becomes --json; tool, version, options, plan and measured peaks are added by run_tool. It is
    // written when run() throws, too.
    Json report = Json::object();

    // Text for stdout; refused (kUsage) when --json - already owns it. Flushes; a closed pipe ends
    // the tool quietly, any other failure with exit 74.
    void print(std::string_view text);
    [[nodiscard]] bool stdout_is_json() const;
    // Progress bar on a terminal, JSONL records with --progress jsonl, else nothing.
    void progress(std::string_view what, std::int64_t done, std::int64_t total, double rate = 0,
                  std::string_view unit = {});
    // SIGTERM, SIGINT or SIGUSR1 seen: stop soon, leaving things whole. Returning then makes the
    // exit code 128+n. A second signal ends the process at once.
    [[nodiscard]] bool interrupted() const noexcept;
};

struct Command {
    std::string name;  // "" for the tool's default command
    // (optional) names it, too, anywhere among the arguments: "--compare", "--method bitstack"
    std::string flag = {};
    std::string help = {};
    Visitable options = {};
    // From headers alone; may be empty for commands that hold nothing worth planning. run_tool adds
    // the baseline.
    std::function<Plan(const CommonOptions&)> plan = {};
    std::function<void(Context&)> run = {};
    // For --list: names per kind ("formats": [...]), from the registries.
    std::function<Json()> list = {};
    bool on_cuda = false;   // takes --device cuda
    bool runs_dry = false;  // run() is called with --dry-run, too, and does nothing then but tell
};

struct ToolInfo {
    std::string name;  // "quantize"
    std::string summary = {};
    std::string epilog = {};  // examples for --help
    std::uint64_t baseline_bytes =
        0;            // resident memory of the process before any work: constant per tool
    int threads = 0;  // unless --threads says more; 0: default_threads()
    // Hears of an error before its line is printed, and may change the line.
    std::function<void(std::string& line)> failing = {};
};

// A sub-command, if any, is the first argument: `recipe run file.yaml`. Returns the process exit
// code.
[[nodiscard]] int run_tool(const ToolInfo& info, std::vector<Command> commands, int argc,
                           char** argv);

[[nodiscard]] std::string_view version();

}  // namespace thimble::cli
