// SPDX-License-Identifier: Apache-2.0
// Carries a recipe out: judges each step against what the work directory remembers, runs what is
// not up to date, keeps records.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "cli/tool.h"
#include "recipe/lock_file.h"
#include "recipe/recipe.h"
#include "recipe/store.h"
#include "recipe/toolbox.h"

namespace thimble::recipe {

struct RunnerOptions {
    std::string workdir = ".";
    std::string from = {};               // this step and all that need it run again
    std::vector<std::string> only = {};  // no other steps are looked at
    bool remeasure = false;
    bool keep_going = false;  // after a failure, run what does not need the failed step
    std::string lock = {};    // empty: recipe.lock.json in the work directory
    bool locked = false;      // refuse what differs from the lock file
};

// What the runner needs of the process around it.
struct Host {
    const cli::CommonOptions* common = nullptr;
    std::string_view isa;
    int threads = 1;
    std::function<void(std::string_view)> show = {};  // stdout of steps with `show`; may be empty
    std::function<int()> pending_signal = {};
};

// One part of a cache key that is not what it was: "options.format", "[q4_0]", "[q5_k]".
struct Change {
    std::string group, name, before, now;
    // "format: [q4_0] -> [q5_k]", "input 'model' changed"
    [[nodiscard]] std::string text() const;
};
// Every part in which two keys differ.
[[nodiscard]] std::vector<Change> changes(const Json& before, const Json& now);

struct Verdict {
    bool up_to_date = false;
    std::string reason;  // why it must run, or since when it need not
    std::string key;     // empty while an input does not exist yet
    Json parts;          // what the key was made of
    std::optional<Json> record;
    std::vector<Change> changes;  // against the step's last run, if the key is new
};

class Runner {
  public:
    // Checks every step's options against its tool. Error(kUsage) with file:line.
    Runner(Recipe recipe, Toolbox& toolbox, const RunnerOptions& options, const Host& host);

    // Inputs that no step makes must exist: Error(kNoInput).
    void check_inputs() const;
    [[nodiscard]] const Recipe& recipe() const noexcept { return recipe_; }
    [[nodiscard]] const StepCommand& command(std::size_t step) const { return commands_[step]; }
    [[nodiscard]] bool selected(std::size_t step) const { return selected_[step]; }
    [[nodiscard]] const std::string& workdir() const noexcept { return options_.workdir; }
    [[nodiscard]] Store& store() noexcept { return store_; }
    // Relative to the work directory where it lies in it.
    [[nodiscard]] std::string shown(const std::string& path) const;
    [[nodiscard]] Verdict judge(std::size_t step);
    // Of every step, also those that would run because one they need does.
    [[nodiscard]] std::vector<Verdict> foresee();
    // The step's gates on the figures it has left behind: gate_json() of each.
    [[nodiscard]] Json check_gates(std::size_t step, const std::string& key) const;
    // Runs what is selected and not up to date, under the directory's lock. One entry per step,
    // also when it throws the first failure.
    void run(Json& steps);
    // What would run and what the tools predict for it, as far as inputs exist.
    [[nodiscard]] Json plan();
    // {over_budget, ram_peak_bytes, output_bytes, seconds} of a step whose inputs exist.
    [[nodiscard]] Json predict(std::size_t step) const;

  private:
    void select(const RunnerOptions& options);
    void note_outputs();
    [[nodiscard]] std::string figures_path(std::size_t step, const std::string& key) const;
    // Without the inputs that are in `left_out`.
    [[nodiscard]] Json key_parts(std::size_t step, const std::set<std::string>& left_out);
    [[nodiscard]] std::string outputs_problem(std::size_t step, const Json& record);
    [[nodiscard]] std::string lock_path() const;
    void open_lock_file();
    [[nodiscard]] bool replaces_own_files(std::size_t step);
    // True when the step had to run.
    bool carry_out(std::size_t step, Json& entry);
    void pass_gates(std::size_t step, const std::string& key, Json& entry) const;
    [[nodiscard]] Json execute(std::size_t step, const Verdict& verdict);
    [[nodiscard]] Json finish(std::size_t step, const Verdict& verdict, double seconds,
                              const std::string& report_path);
    void replay(const Verdict& verdict) const;

    Recipe recipe_;
    Host host_;
    RunnerOptions options_;
    Store store_;
    std::vector<StepCommand> commands_;
    std::vector<bool> selected_, forced_;
    // What steps write; those of it that are other bytes each time, as a measuring step wrote them
    // or one that reads such.
    std::set<std::string> made_, varying_;
    std::vector<bool> varies_;
    LockFile lock_;
};

}  // namespace thimble::recipe
