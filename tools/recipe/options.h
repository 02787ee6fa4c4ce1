// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/options.h"
#include "recipe/runner.h"

namespace thimble::recipe {

struct RecipeOptions {
    std::string file, workdir = ".", tools;
    std::vector<std::string> sets;
    void visit(OptionVisitor& v);
};

struct RunOptions {
    RecipeOptions recipe;
    RunnerOptions runner;
    void visit(OptionVisitor& v);
};

}  // namespace thimble::recipe
