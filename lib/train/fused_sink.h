// SPDX-License-Identifier: Apache-2.0
// Uses each gradient up as soon as backward has made it, so that only one is in memory:
// "Full Parameter Fine-tuning for Large Language Models with Limited Resources" (LOMO, 2023).
#pragma once

#include <vector>

#include "dist/communicator.h"
#include "train/slot_store.h"

namespace thimble::train {

class FusedSink final : public GradientSink {
  public:
    FusedSink(ParameterSet& parameters, const Optimizer& optimizer, const Exec& exec,
              dist::Communicator& ranks);

    // Of the matrix at hand, of those that two uses add to (a tied head) and of vectors.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    void begin_step(std::int64_t step, double learning_rate, double weight_decay, SlotStore& slots,
                    const std::vector<Chunk>& chunks);

    [[nodiscard]] std::optional<View> gradient(const ParameterId& id) override;
    void done(const ParameterId& id) override;

  private:
    void update(std::size_t parameter);
    // Its gradient shares its place with no other: backward is at work on a vector and a matrix at
    // once.
    [[nodiscard]] bool stays(std::size_t parameter) const {
        return uses_[parameter] > 1 || parameters_[parameter].info.shape.rows == 1;
    }

    ParameterSet& parameters_;
    const Optimizer& optimizer_;
    Exec exec_;
    dist::Communicator& ranks_;  // whose gradients are summed before they are used
    Buffer memory_;
    std::size_t bytes_ = 0;
    std::vector<std::size_t> places_;       // of each parameter's gradient in memory
    std::vector<int> uses_, left_;          // of each parameter; still to come in this pass
    std::vector<bool> begun_;               // its gradient has been asked for in this pass
    std::vector<std::size_t> first_chunk_;  // of each parameter, and one past the last
    std::int64_t step_ = 0;
    double learning_rate_ = 0, weight_decay_ = 0;
    SlotStore* slots_ = nullptr;
    const std::vector<Chunk>* chunks_ = nullptr;
};

}  // namespace thimble::train
