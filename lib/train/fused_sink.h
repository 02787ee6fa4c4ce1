// SPDX-License-Identifier: Apache-2.0
// Uses each gradient up as soon as backward has made it, so that only one is in memory:
// "Full Parameter Fine-tuning for Large Language Models with Limited Resources" (LOMO, 2023). Where
// gradients are to be clipped by the norm of all, a pass before finds that, as there.
#pragma once

#include <vector>

#include "dist/communicator.h"
#include "train/updater.h"

namespace thimble::train {

class FusedSink final : public GradientSink {
  public:
    FusedSink(ParameterSet& parameters, Updater& updater, const Exec& exec,
              dist::Communicator& ranks);

    // Of the matrix at hand, of those that two uses add to (a tied head) and of vectors; as much
    // again on a CUDA device, from where each is brought to the optimizer.
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    // What the next pass does with gradients: it updates by the updater's step, or nothing but sums
    // up squares. `step`: for errors.
    enum class Use : std::uint8_t { kUpdate, kNorm };
    void begin_pass(Use use, std::int64_t step);
    // Of all gradients of the last pass.
    [[nodiscard]] double sum_of_squares() const;

    [[nodiscard]] std::optional<View> gradient(const ParameterId& id) override;
    // Error(kFailure) when the gradient is not finite; with kUpdate those that came before are used
    // up then.
    void done(const ParameterId& id) override;

  private:
    void use_up(std::size_t parameter);
    [[nodiscard]] View view(std::size_t parameter, std::byte* memory) const;
    // Its gradient shares its place with no other: backward is at work on a vector and a matrix at
    // once.
    [[nodiscard]] bool stays(std::size_t parameter) const {
        return uses_[parameter] > 1 || parameters_[parameter].info.shape.rows == 1;
    }

    ParameterSet& parameters_;
    Updater& updater_;
    Exec exec_;
    dist::Communicator& ranks_;  // whose gradients are summed before they are used
    Buffer memory_, device_memory_;
    std::size_t bytes_ = 0;
    std::vector<std::size_t> places_;  // of each parameter's gradient in memory
    std::vector<int> uses_, left_;     // of each parameter; still to come in this pass
    std::vector<bool> begun_;          // its gradient has been asked for in this pass
    std::vector<double> squares_;      // of each parameter's gradient, summed up
    Use use_ = Use::kUpdate;
    std::int64_t step_ = 0;
};

}  // namespace thimble::train
