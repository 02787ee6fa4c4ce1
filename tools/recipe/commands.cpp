// SPDX-License-Identifier: Apache-2.0
#include "commands.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "cli/console.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "recipe/clean.h"
#include "recipe/dig.h"
#include "recipe/editor_schema.h"
#include "recipe/tell.h"

namespace thimble::recipe {
namespace {

ToolDirectory tool_directory(const std::string& tools) {
    if (!tools.empty()) return {tools, ""};
    return ToolDirectory::beside_this_executable();
}

Recipe read_recipe(const RecipeOptions& options) {
    std::vector<Overlay> overlays;
    for (const std::string& file : options.overlays)
        overlays.push_back({cli::read_yaml_file(file), file});
    return parse_recipe(cli::read_yaml_file(options.file), options.file,
                        read_overrides(options.sets, overlays));
}

Runner make_runner(const RecipeOptions& options, RunnerOptions runner, cli::Context& context) {
    runner.workdir = options.workdir;
    Host host{.common = &context.common,
              .isa = name(context.isa),
              .threads = context.team.threads(),
              .show = {},
              .pending_signal = cli::seen_signal};
    if (!context.stdout_is_json())
        host.show = [&context](std::string_view text) { context.print(text); };
    Toolbox toolbox(tool_directory(options.tools));
    return {read_recipe(options), toolbox, runner, host};
}

void print(cli::Context& context, const std::string& text) {
    if (!context.stdout_is_json()) context.print(text);
}

std::string plan_line(const Json& step) {
    const auto size = [](const Json* predicted, const char* key) {
        const std::int64_t bytes = predicted == nullptr ? 0 : bytes_at(*predicted, {key});
        return bytes == 0 ? std::string("-") : format_bytes(static_cast<std::uint64_t>(bytes));
    };
    const Json* predicted = step.find("predicted");
    char text[512];
    std::snprintf(text, sizeof(text), "%-28s %-12s %12s %12s  %s\n", text_at(step, {"id"}).c_str(),
                  step.find("runs")->as_bool("runs") ? "runs" : "up to date",
                  size(predicted, "ram_peak_bytes").c_str(),
                  size(predicted, "output_bytes").c_str(),
                  escaped(text_at(step, {"reason"}), 200).c_str());
    return text;
}

// What a step needs, where its inputs are there already.
void predict_memory(const Runner& runner, std::vector<ShellStep>& steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) {
        const auto& inputs = steps[i].inputs;
        if (!std::all_of(inputs.begin(), inputs.end(), [](const std::string& path) {
                std::error_code failed;
                return std::filesystem::exists(path, failed);
            }))
            continue;
        steps[i].ram_bytes =
            static_cast<std::uint64_t>(bytes_at(runner.predict(i), {"ram_peak_bytes"}));
    }
}

void check_batch(const BatchOptions& batch) {
    if (batch.time.empty() || batch.time.find_first_not_of("0123456789-:") != std::string::npos)
        throw Error(Exit::kUsage, "--time", "'" + escaped(batch.time) + "' is not a time limit",
                    "write minutes, HH:MM:SS or D-HH:MM:SS");
    const std::string& memory = batch.memory;
    const std::size_t digits = memory.find_first_not_of("0123456789");
    const bool unit = digits != std::string::npos && digits + 1 == memory.size() &&
                      std::string("KMGT").find(memory[digits]) != std::string::npos;
    if (!memory.empty() && (digits == 0 || (digits != std::string::npos && !unit)))
        throw Error(Exit::kUsage, "--mem", "'" + escaped(memory) + "' is not a size of Slurm's",
                    "write 8G or 500M");
}

// A hand-written Makefile is not lost to a typing error.
void check_replaceable(const std::string& path) {
    std::error_code failed;
    if (!std::filesystem::is_regular_file(path, failed)) return;
    const std::string text = read_text_file(path, std::uint64_t{64} << 20);
    if (text.find("# Made by recipe export") > 32)
        throw Error(Exit::kCannotCreate, path, "exists and was not made by recipe export",
                    "--overwrite replaces it");
}

void give(const std::string& output, const std::string& text, cli::Context& context) {
    if (output.empty()) return print(context, text);
    write_text_file(output, text, IfExists::kReplace);
}

}  // namespace

void run_recipe(const RunOptions& options, cli::Context& context) {
    Runner runner = make_runner(options.recipe, options.runner, context);
    if (context.common.dry_run) {
        runner.check_inputs();
        const std::string script = shell_script(runner);
        print(context, script);
        context.report.set("script", script);
        return;
    }
    Json steps;
    try {
        runner.run(steps);
    } catch (const Error&) {
        context.report.set("steps", steps);
        throw;
    }
    context.report.set("steps", steps);
}

void check_recipe(const RecipeOptions& options, cli::Context& context) {
    const Runner runner = make_runner(options, {}, context);
    runner.check_inputs();
    const std::int64_t steps = static_cast<std::int64_t>(runner.recipe().steps.size());
    context.report.set("steps", steps);
    print(context, options.file + ": " + std::to_string(steps) + " steps, valid\n");
}

void plan_recipe(const RunOptions& options, cli::Context& context) {
    Runner runner = make_runner(options.recipe, options.runner, context);
    const Json steps = runner.plan();
    context.report.set("steps", steps);
    char head[160];
    std::snprintf(head, sizeof(head), "%-28s %-12s %12s %12s  %s\n", "step", "state", "ram peak",
                  "output", "why");
    std::string text = head;
    for (const Json& step : steps.as_array("steps")) text += plan_line(step);
    print(context, text);
}

void graph_recipe(const GraphOptions& options, cli::Context& context) {
    const std::string text = graph_text(read_recipe(options.recipe), options.format);
    context.report.set("graph", text);
    print(context, text);
}

void explain_step(const ExplainOptions& options, cli::Context& context) {
    Runner runner = make_runner(options.recipe, {}, context);
    const std::vector<Verdict> verdicts = runner.foresee();
    Json steps = Json::array();
    std::string text;
    for (const std::size_t i :
         runner.recipe().find(options.step, "'" + escaped(options.step) + "'")) {
        const Json explanation = explain(runner, i, verdicts[i]);
        text += (text.empty() ? "" : "\n") + explanation_text(explanation);
        steps.push(explanation);
    }
    context.report.set("steps", steps);
    print(context, text);
}

void clean_workdir(const CleanToolOptions& options, cli::Context& context) {
    const Json result =
        clean(options.workdir, {.force = options.force, .dry = context.common.dry_run});
    std::string text;
    for (const Json& path : result.find("removed")->as_array("removed"))
        text += (context.common.dry_run ? "would remove " : "removed ") +
                escaped(path.as_string("path"), 300) + "\n";
    for (const Json& kept : result.find("kept")->as_array("kept"))
        log_warning("kept " + escaped(text_at(kept, {"path"}), 300) + ": it " +
                    text_at(kept, {"why"}));
    context.report.set("removed", *result.find("removed"));
    context.report.set("kept", *result.find("kept"));
    print(context, text);
}

void export_recipe(const ExportOptions& options, cli::Context& context) {
    if (options.make == options.slurm)
        throw Error(Exit::kUsage, "--make, --slurm", "choose one of the two");
    check_batch(options.batch);
    const Runner runner = make_runner(options.recipe, {}, context);
    runner.check_inputs();
    if (!options.output.empty() && !options.overwrite) check_replaceable(options.output);
    std::vector<ShellStep> steps = shell_steps(runner, true);
    const std::string stamps = export_directory(runner);
    std::string text;
    if (options.make) {
        text = makefile(steps, options.recipe.file, stamps);
    } else {
        predict_memory(runner, steps);
        BatchOptions batch = options.batch;
        if (batch.cpus == 0) batch.cpus = context.team.threads();
        text = batch_script(steps, options.recipe.file, stamps, batch);
    }
    context.report.set("steps", static_cast<std::int64_t>(steps.size()));
    if (options.output.empty()) context.report.set("text", text);
    give(options.output, text, context);
}

void check_result(const GateOptions& options, cli::Context& context) {
    std::vector<Gate> gates;
    for (const std::string& text : options.gates) gates.emplace_back(text, "--assert");
    const Json figures = read_json_file(options.result);
    std::string text, failed;
    Json results = Json::array();
    for (const Gate& gate : gates) {
        const GateResult result = check_gate(gate, figures);
        const std::string line = describe(gate, result);
        results.push(gate_json(gate, result));
        if (result.holds) text += line + "\n";
        if (!result.holds) failed += (failed.empty() ? "" : "; ") + line;
    }
    context.report.set("gates", results);
    print(context, text);
    if (!failed.empty()) throw Error(Exit::kGateFailed, options.result, "gate " + failed);
}

void print_editor_schema(const SchemaOptions& options, cli::Context& context) {
    Toolbox toolbox(tool_directory(options.tools));
    const Json schema = editor_schema(toolbox);
    if (options.output.empty()) context.report.set("recipe_schema", schema);
    give(options.output, schema.dump(1) + "\n", context);
}

}  // namespace thimble::recipe
