// SPDX-License-Identifier: Apache-2.0
// evaluate --profile: what this machine's kernels make of every weight format, without a model.
#pragma once

#include <string>

#include "cli/tool.h"
#include "cost/kernel_profile.h"

namespace thimble::evaluate {

struct ProfileOptions {
    cost::KernelProfileOptions kernels;
    std::string activations = "auto", output;
    void visit(OptionVisitor& v);
};

[[nodiscard]] Plan plan_profile(const ProfileOptions& options);
void run_profile(const ProfileOptions& options, cli::Context& context);

}  // namespace thimble::evaluate
