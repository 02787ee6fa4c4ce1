// SPDX-License-Identifier: Apache-2.0
// Which options would make a training run fit: each is planned anew, so what is named suffices.
#pragma once

#include <string>

#include "core/plan.h"
#include "train/trainer.h"

namespace thimble::train {

// `plan` is that of a run with `options`, whole. Where it does not fit: the first change that makes
// it, or else the fewest of them together, or what they would leave too much. Where it fits: the
// first change that saves memory. What only costs time comes before what changes the training.
[[nodiscard]] std::string cheapest_change(const ModelSource& source, const TrainerOptions& options,
                                          const Plan& plan, const Budget& budget);

}  // namespace thimble::train
