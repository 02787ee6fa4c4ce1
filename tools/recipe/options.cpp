// SPDX-License-Identifier: Apache-2.0
#include "options.h"

namespace thimble::recipe {

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
    v.option({.name = "set",
              .help = "give a variable a value; a relative path leads from here, not from "
                      "--workdir",
              .value = "KEY=VALUE"},
             sets);
    v.option({.name = "tools",
              .help = "directory of the tools; empty: beside this executable",
              .value = "DIR"},
             tools);
}

void RunOptions::visit(OptionVisitor& v) {
    recipe.visit(v);
    v.option({.name = "from", .help = "run this step and all that need it again", .value = "ID"},
             runner.from);
    v.option({.name = "only", .help = "leave all other steps alone", .value = "ID"}, runner.only);
    v.option({.name = "remeasure", .help = "run the steps that measure again"}, runner.remeasure);
}

}  // namespace thimble::recipe
