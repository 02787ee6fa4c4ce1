// SPDX-License-Identifier: Apache-2.0
// recipe: runs, checks and plans chains of the other tools.
#include <cstdio>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/tool.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/strings.h"
#include "options.h"
#include "recipe/runner.h"

using namespace thimble;
using recipe::RecipeOptions;
using recipe::RunOptions;

namespace {

constexpr std::uint64_t kBaselineBytes = std::uint64_t{8} << 20;

constexpr const char* kEpilog = R"(A recipe, r.yaml:
  recipe: 1
  vars: {model: model.gguf}
  steps:
    - id: small
      uses: quantize
      with: {model: "${vars.model}", output: small.gguf, format: q4_0}
    - id: answer
      uses: run
      show: true
      with: {model: "${steps.small.output}", prompt: Once upon a time, n-predict: 32}

'uses' names a tool and its command, 'with' holds its long options; a step may have 'needs' (ids),
'matrix' (one instance per value), 'measure' (once or always: its result holds timings) and 'show'.

Examples:
  recipe run r.yaml --set model=other.gguf --workdir out
  recipe plan r.yaml                 what would run, why, and what it would need
  recipe run r.yaml --dry-run        commands to paste into a shell
  recipe run r.yaml --max-memory ram=2GiB
)";

recipe::Runner make_runner(const RecipeOptions& options, recipe::RunnerOptions runner,
                           cli::Context& context) {
    recipe::ToolDirectory tools = recipe::ToolDirectory::beside_this_executable();
    if (!options.tools.empty()) tools = {options.tools, ""};
    runner.workdir = options.workdir;
    recipe::Host host{.common = &context.common,
                      .isa = name(context.isa),
                      .threads = context.team.threads(),
                      .show = {},
                      .pending_signal = cli::seen_signal};
    if (!context.stdout_is_json())
        host.show = [&context](std::string_view text) { context.print(text); };
    recipe::Toolbox toolbox(tools);
    return {recipe::parse_recipe(cli::read_yaml_file(options.file), options.file, options.sets),
            toolbox, runner, host};
}

void run(const RunOptions& options, cli::Context& context) {
    recipe::Runner runner = make_runner(options.recipe, options.runner, context);
    if (context.common.dry_run) {
        runner.check_inputs();
        if (!context.stdout_is_json()) context.print(runner.script());
        context.report.set("script", runner.script());
        return;
    }
    context.report.set("steps", runner.run());
}

void check(const RecipeOptions& options, cli::Context& context) {
    const recipe::Runner runner = make_runner(options, {}, context);
    runner.check_inputs();
    const std::int64_t steps = static_cast<std::int64_t>(runner.recipe().steps.size());
    context.report.set("steps", steps);
    if (!context.stdout_is_json())
        context.print(options.file + ": " + std::to_string(steps) + " steps, valid\n");
}

std::string plan_line(const Json& step) {
    const auto size = [](const Json* predicted, const char* key) {
        const Json* value = predicted == nullptr ? nullptr : predicted->find(key);
        const std::int64_t bytes = value == nullptr ? 0 : value->as_int(key);
        return bytes == 0 ? std::string("-") : format_bytes(static_cast<std::uint64_t>(bytes));
    };
    const Json* predicted = step.find("predicted");
    char text[512];
    std::snprintf(
        text, sizeof(text), "%-28s %-12s %12s %12s  %s\n", step.find("id")->as_string("id").c_str(),
        step.find("runs")->as_bool("runs") ? "runs" : "up to date",
        size(predicted, "ram_peak_bytes").c_str(), size(predicted, "output_bytes").c_str(),
        escaped(step.find("reason")->as_string("reason"), 200).c_str());
    return text;
}

void plan(const RunOptions& options, cli::Context& context) {
    recipe::Runner runner = make_runner(options.recipe, options.runner, context);
    const Json steps = runner.plan();
    context.report.set("steps", steps);
    if (context.stdout_is_json()) return;
    char head[160];
    std::snprintf(head, sizeof(head), "%-28s %-12s %12s %12s  %s\n", "step", "state", "ram peak",
                  "output", "why");
    std::string text = head;
    for (const Json& step : steps.as_array("steps")) text += plan_line(step);
    context.print(text);
}

}  // namespace

int main(int argc, char** argv) {
    RunOptions run_options, plan_options;
    RecipeOptions check_options;
    const auto visit = [](auto& options) {
        return [&options](OptionVisitor& v) { options.visit(v); };
    };
    return cli::run_tool(
        {.name = "recipe",
         .summary = "runs chains of tools written in YAML, and only what is not up to date",
         .epilog = kEpilog,
         .baseline_bytes = kBaselineBytes},
        {{.name = "run",
          .help = "run what is not up to date",
          .options = visit(run_options),
          .run = [&](cli::Context& c) { run(run_options, c); },
          .runs_dry = true},
         {.name = "plan",
          .help = "say what would run, why, and what it would need",
          .options = visit(plan_options),
          .run = [&](cli::Context& c) { plan(plan_options, c); },
          .runs_dry = true},
         {.name = "check",
          .help = "check the recipe, every option and the inputs",
          .options = visit(check_options),
          .run = [&](cli::Context& c) { check(check_options, c); },
          .runs_dry = true}},
        argc, argv);
}
