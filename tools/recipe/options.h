// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/options.h"
#include "recipe/export.h"
#include "recipe/runner.h"

namespace thimble::recipe {

struct RecipeOptions {
    std::string file, workdir = ".", tools;
    std::vector<std::string> sets, overlays;
    void visit(OptionVisitor& v);
};

struct RunOptions {
    RecipeOptions recipe;
    RunnerOptions runner;
    void visit(OptionVisitor& v);
};

struct GraphOptions {
    RecipeOptions recipe;
    std::string format = "text";
    void visit(OptionVisitor& v);
};

struct ExplainOptions {
    RecipeOptions recipe;
    std::string step;
    void visit(OptionVisitor& v);
};

struct CleanToolOptions {
    std::string workdir = ".";
    bool force = false;
    void visit(OptionVisitor& v);
};

struct ExportOptions {
    RecipeOptions recipe;
    bool make = false, slurm = false, overwrite = false;
    std::string output;
    BatchOptions batch = {.cpus = 0};
    void visit(OptionVisitor& v);
};

struct GateOptions {
    std::string result;
    std::vector<std::string> gates;
    void visit(OptionVisitor& v);
};

struct SchemaOptions {
    std::string output, tools;
    void visit(OptionVisitor& v);
};

}  // namespace thimble::recipe
