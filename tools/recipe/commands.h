// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/tool.h"
#include "options.h"

namespace thimble::recipe {

void run_recipe(const RunOptions& options, cli::Context& context);
void check_recipe(const RecipeOptions& options, cli::Context& context);
void plan_recipe(const RunOptions& options, cli::Context& context);
void graph_recipe(const GraphOptions& options, cli::Context& context);
void explain_step(const ExplainOptions& options, cli::Context& context);
void clean_workdir(const CleanToolOptions& options, cli::Context& context);
void export_recipe(const ExportOptions& options, cli::Context& context);
void check_result(const GateOptions& options, cli::Context& context);
void print_editor_schema(const SchemaOptions& options, cli::Context& context);

}  // namespace thimble::recipe
