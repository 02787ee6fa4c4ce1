// SPDX-License-Identifier: Apache-2.0
#include "options.h"

namespace thimble::recipe {
namespace {

void visit_tools(OptionVisitor& v, std::string& tools) {
    v.option({.name = "tools",
              .help = "directory of the tools; empty: beside this executable",
              .value = "DIR"},
             tools);
}

}  // namespace

void RecipeOptions::visit(OptionVisitor& v) {
    v.group("Recipe");
    v.option({.name = "recipe",
              .help = "the recipe",
              .value = "FILE.yaml",
              .required = true,
              .is_input = true,
              .positional = true},
             file);
    v.option({.name = "workdir",
              .letter = 'w',
              .help = "where outputs go and relative paths of the recipe lead",
              .value = "DIR"},
             workdir);
    v.option(
        {.name = "set",
         .help = "a variable (x=1) or a key of a step (steps.ID.with.OPTION=1; given again, it "
                 "makes a list); a relative path leads from here, not from --workdir",
         .value = "KEY=VALUE"},
        sets);
    v.option({.name = "overlay",
              .help = "YAML of 'vars' and 'steps: {ID: {with: ...}}' that replaces the recipe's; "
                      "--set beats it",
              .value = "FILE.yaml",
              .is_input = true},
             overlays);
    visit_tools(v, tools);
}

void RunOptions::visit(OptionVisitor& v) {
    recipe.visit(v);
    v.option({.name = "from", .help = "run this step and all that need it again", .value = "ID"},
             runner.from);
    v.option({.name = "only", .help = "leave all other steps alone", .value = "ID"}, runner.only);
    v.option({.name = "remeasure", .help = "run the steps that measure again"}, runner.remeasure);
    v.option({.name = "keep-going",
              .letter = 'k',
              .help = "after a failure, run the steps that do not need the failed one"},
             runner.keep_going);
    v.option({.name = "lock",
              .help = "the lock file; empty: recipe.lock.json in --workdir",
              .value = "FILE"},
             runner.lock);
    v.option(
        {.name = "locked",
         .help = "refuse what differs from the lock file: options and versions (2), inputs and "
                 "outputs (65)"},
        runner.locked);
}

void GraphOptions::visit(OptionVisitor& v) {
    recipe.visit(v);
    v.option({.name = "format",
              .help = "a tree, Graphviz or Mermaid",
              .choices = {"text", "dot", "mermaid"}},
             format);
}

void ExplainOptions::visit(OptionVisitor& v) {
    recipe.visit(v);
    v.option({.name = "step",
              .help = "the step, or one instance of its matrix",
              .value = "ID",
              .required = true,
              .positional = true},
             step);
}

void CleanToolOptions::visit(OptionVisitor& v) {
    v.option({.name = "workdir",
              .letter = 'w',
              .help = "whose outputs and cache; files that no step wrote stay",
              .value = "DIR"},
             workdir);
    v.option({.name = "force", .help = "remove outputs that were changed, too"}, force);
}

void ExportOptions::visit(OptionVisitor& v) {
    recipe.visit(v);
    v.group("Export");
    v.option({.name = "make", .help = "a Makefile"}, make);
    v.option({.name = "slurm", .help = "a batch script that submits itself stage by stage"}, slurm);
    v.option({.name = "output",
              .letter = 'o',
              .help = "where to; empty: stdout",
              .value = "FILE",
              .is_output = true},
             output);
    v.option({.name = "overwrite", .help = "replace a file that export did not write"}, overwrite);
    v.option({.name = "cpus",
              .help = "Slurm: cores of each job; 0: as many as --threads",
              .least = 0,
              .most = 1024},
             batch.cpus);
    v.option({.name = "time", .help = "Slurm: time limit of each job", .value = "D-HH:MM:SS"},
             batch.time);
    v.option({.name = "mem",
              .help = "Slurm: memory of jobs whose need is not known before others have run",
              .value = "SIZE"},
             batch.memory);
}

void GateOptions::visit(OptionVisitor& v) {
    v.option({.name = "result",
              .help = "JSON that a tool wrote: evaluate -o, or --json of any",
              .value = "FILE.json",
              .required = true,
              .is_input = true,
              .positional = true},
             result);
    v.option({.name = "assert",
              .help = "it must hold: 'kld_mean<0.03', 'ppl<=baseline.ppl*1.01'",
              .value = "EXPR",
              .required = true},
             gates);
}

void SchemaOptions::visit(OptionVisitor& v) {
    v.option({.name = "output",
              .letter = 'o',
              .help = "where to; empty: stdout",
              .value = "FILE",
              .is_output = true},
             output);
    visit_tools(v, tools);
}

}  // namespace thimble::recipe
