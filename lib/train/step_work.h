// SPDX-License-Identifier: Apache-2.0
// What one rank does in a step of full batches, for predictions of its time.
#pragma once

#include "cost/time_model.h"
#include "train/trainer.h"

namespace thimble::train {

struct StepFacts {
    const ModelSource& source;
    const TrainerOptions& options;
    const Exec& exec;
    const std::vector<UnitSpec>& units;
    const ParameterSet& parameters;
    const Optimizer& optimizer;
    bool trains_model = false;  // its own weights, not adapters
    bool in_backward = false;
    PassBytes bytes;
};
[[nodiscard]] cost::TrainingWork step_work(const StepFacts& facts);

}  // namespace thimble::train
