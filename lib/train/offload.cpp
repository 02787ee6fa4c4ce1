// SPDX-License-Identifier: Apache-2.0
#include "train/offload.h"

namespace thimble::train {

void Offload::visit(OptionVisitor& v) {
    v.option({.name = "optimizer",
              .help = "the optimizer's state, read ahead and written behind the update",
              .changes_output = false,
              .choices = {"memory", "disk"}},
             optimizer);
    v.option({.name = "activations",
              .help = "what forward keeps for backward: the checkpoints, or all without them",
              .changes_output = false,
              .choices = {"memory", "disk"}},
             activations);
    v.option({.name = "parameters",
              .help = "values of the layers that are trained",
              .changes_output = false,
              .choices = {"memory", "disk"}},
             parameters);
}

Offload Offload::parse(std::string_view text, std::string_view where) {
    Offload offload;
    parse_inline_options(
        text, [&](OptionVisitor& v) { offload.visit(v); }, where);
    return offload;
}

}  // namespace thimble::train
