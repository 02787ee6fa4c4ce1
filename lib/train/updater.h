// SPDX-License-Identifier: Apache-2.0
// One step's updates, a parameter at a time, chunk by chunk. Weights in BF16 are rounded
// stochastically, by random numbers of (seed, parameter, step, element): "Revisiting BFloat16
// Training" (2020).
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
    Updater(ParameterSet& parameters, const Optimizer& optimizer, const Exec& exec,
            std::uint64_t seed);

    // Held where there are weights in BF16.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    void begin_step(const UpdateStep& step, SlotStore& slots, const std::vector<Chunk>& chunks);
    // With the parameter's gradients, which are for all of its values in memory.
    void update(std::size_t parameter, const float* gradients);

  private:
    ParameterSet& parameters_;
    const Optimizer& optimizer_;
    Exec exec_;
    std::uint64_t seed_;
    std::size_t bytes_ = 0;
    Buffer scratch_;  // BF16 weights as F32, a part for each thread
    UpdateStep step_;
    SlotStore* slots_ = nullptr;
    const std::vector<Chunk>* chunks_ = nullptr;
    std::vector<std::size_t> first_chunk_;  // of each parameter, and one past the last
};

}  // namespace thimble::train
