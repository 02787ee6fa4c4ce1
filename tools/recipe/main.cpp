// SPDX-License-Identifier: Apache-2.0
// recipe: runs, checks, plans, explains and exports chains of the other tools.
#include "commands.h"

using namespace thimble;

namespace {

constexpr std::uint64_t kBaselineBytes = std::uint64_t{8} << 20;

constexpr const char* kEpilog = R"(A recipe, r.yaml:
  # yaml-language-server: $schema=recipe.schema.json
  recipe: 1
  vars: {model: model.gguf, text: text.txt}
  steps:
    - id: small
      uses: quantize
      with: {model: "${vars.model}", output: small.gguf, format: q4_0}
    - id: good
      uses: evaluate
      with: {model: "${steps.small.output}", reference: "${vars.model}", file: "${vars.text}"}
      assert: [kld_mean<0.05]
    - id: answer
      uses: run
      needs: [good]
      show: true
      with: {model: "${steps.small.output}", prompt: Once upon a time, n-predict: 32}

'uses' names a tool and its command, 'with' holds its long options; a step may have 'needs' (ids),
'matrix' (one instance per combination of values, less 'exclude', plus 'include'), 'assert' (gates on
the figures that it writes; exit code 3), 'measure' (once or always: its result holds timings) and
'show'. Jobs that share a work directory take turns.

Examples:
  recipe run r.yaml --set model=other.gguf --set steps.small.with.format=q5_k --workdir out
  recipe plan r.yaml                 what would run, why, and what it would need
  recipe explain r.yaml small        why it would run, and where its result is kept
  recipe run r.yaml --dry-run        commands to paste into a shell
  recipe run r.yaml --locked         only what recipe.lock.json says
  recipe export r.yaml --make -o Makefile
  recipe export r.yaml --slurm -o job.sbatch --time 01:00:00 --mem 8G
)";

}  // namespace

int main(int argc, char** argv) {
    recipe::RunOptions run, plan;
    recipe::RecipeOptions check;
    recipe::GraphOptions graph;
    recipe::ExplainOptions explain;
    recipe::CleanToolOptions clean;
    recipe::ExportOptions exported;
    recipe::GateOptions gate;
    recipe::SchemaOptions schema;
    std::vector<cli::Command> commands;
    const auto add = [&](const char* name, const char* help, auto& options, auto work) {
        commands.push_back({.name = name,
                            .help = help,
                            .options = [&options](OptionVisitor& v) { options.visit(v); },
                            .run = [&options, work](cli::Context& c) { work(options, c); },
                            .runs_dry = true});
    };
    add("run", "run what is not up to date", run, recipe::run_recipe);
    add("plan", "say what would run, why, and what it would need", plan, recipe::plan_recipe);
    add("check", "check the recipe, every option and the inputs", check, recipe::check_recipe);
    add("graph", "show who needs whom", graph, recipe::graph_recipe);
    add("explain", "say why a step would run, with what, and where its result is kept", explain,
        recipe::explain_step);
    add("clean", "remove the outputs and the cache; --dry-run only names them", clean,
        recipe::clean_workdir);
    add("export", "write the steps as a Makefile or a Slurm batch script", exported,
        recipe::export_recipe);
    add("gate", "check figures in a result: exit code 3 when one fails", gate,
        recipe::check_result);
    add("schema", "print the JSON Schema of recipes, for editors", schema,
        recipe::print_editor_schema);
    return cli::run_tool(
        {.name = "recipe",
         .summary = "runs chains of tools written in YAML, and only what is not up to date",
         .epilog = kEpilog,
         .baseline_bytes = kBaselineBytes},
        std::move(commands), argc, argv);
}
