// SPDX-License-Identifier: Apache-2.0
// evaluate --cost-model: what a model would cost on given hardware, from headers alone.
#pragma once

#include <string>
#include <vector>

#include "cli/tool.h"
#include "cost/serving.h"
#include "kv/engine.h"

namespace thimble::evaluate {

struct CostOptions {
    std::string hardware, model, machine, output;
    std::vector<std::string> contexts;
    std::int64_t users = 1;
    cost::TestTime work = {.generated = 256};
    KvOptions kv = {.context_tokens = 0};
    void visit(OptionVisitor& v);
};

void run_cost(CostOptions& options, cli::Context& context);

}  // namespace thimble::evaluate
