// SPDX-License-Identifier: Apache-2.0
// One step's updates, a parameter at a time, chunk by chunk.
#pragma once

#include <vector>

#include "train/slot_store.h"

namespace thimble::train {

struct UpdateStep {
    std::int64_t number = 1;  // from 1
    double learning_rate = 0, weight_decay = 0;
    double gradient_scale = 1;
};

class Updater {
  public:
    // All live as long.
    Updater(ParameterSet& parameters, const Optimizer& optimizer, const Exec& exec)
        : parameters_(parameters), optimizer_(optimizer), exec_(exec) {}

    void begin_step(const UpdateStep& step, SlotStore& slots, const std::vector<Chunk>& chunks);
    // With the parameter's gradients, which are for all of its values in memory.
    void update(std::size_t parameter, const float* gradients);

  private:
    ParameterSet& parameters_;
    const Optimizer& optimizer_;
    Exec exec_;
    UpdateStep step_;
    SlotStore* slots_ = nullptr;
    const std::vector<Chunk>* chunks_ = nullptr;
    std::vector<std::size_t> first_chunk_;  // of each parameter, and one past the last
};

}  // namespace thimble::train
