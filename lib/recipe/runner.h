// SPDX-License-Identifier: Apache-2.0
// Carries a recipe out: judges each step against what the work directory remembers, runs what is
// not up to date, keeps records.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/tool.h"
#include "recipe/recipe.h"
#include "recipe/store.h"
#include "recipe/toolbox.h"

namespace thimble::recipe {

struct RunnerOptions {
    std::string workdir = ".";
    std::string from = {};               // this step and all that need it run again
    std::vector<std::string> only = {};  // no other steps are looked at
    bool remeasure = false;
};

// What the runner needs of the process around it.
struct Host {
    const cli::CommonOptions* common = nullptr;
    std::string_view isa;
    int threads = 1;
    std::function<void(std::string_view)> show = {};  // stdout of steps with `show`; may be empty
    std::function<int()> pending_signal = {};
};

struct Verdict {
    bool up_to_date = false;
    std::string reason;  // why it must run, or since when it need not
    std::string key;     // empty while an input does not exist yet
    Json parts;          // what the key was made of
    std::optional<Json> record;
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
    [[nodiscard]] Verdict judge(std::size_t step);
    // Runs what is selected and not up to date, under the directory's lock. One entry per step.
    [[nodiscard]] Json run();
    // What would run and what the tools predict for it, as far as inputs exist.
    [[nodiscard]] Json plan();
    // Commands to paste into a shell, in order.
    [[nodiscard]] std::string script() const;

  private:
    void select(const RunnerOptions& options);
    [[nodiscard]] Json key_parts(std::size_t step);
    [[nodiscard]] std::string outputs_problem(std::size_t step, const Json& record);
    Json execute(std::size_t step, const Verdict& verdict);
    Json finish(std::size_t step, const Verdict& verdict, double seconds,
                const std::string& report_path);
    void replay(const Verdict& verdict) const;
    [[nodiscard]] Json predict(std::size_t step) const;

    Recipe recipe_;
    Host host_;
    std::string workdir_;
    Store store_;
    bool remeasure_ = false;
    std::vector<StepCommand> commands_;
    std::vector<bool> selected_, forced_;
};

}  // namespace thimble::recipe
