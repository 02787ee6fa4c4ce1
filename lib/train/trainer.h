// SPDX-License-Identifier: Apache-2.0
// A model, a method and an optimizer: one step at a time, and what of it has to survive a kill.
// Several ranks train as one: each has all parameters, computes the gradients of its own rows, and
// makes the same update with the sum of all. "PyTorch Distributed" (2020) calls it data parallel.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/plan.h"
#include "cost/time_model.h"
#include "dist/communicator.h"
#include "train/method.h"
#include "train/offload.h"
#include "train/pass.h"

namespace thimble::train {

struct TrainerOptions {
    Device device = Device::kCpu;
    Isa isa = Isa::kPortable;
    int threads = 1;    // for plans
    bool bf16 = false;  // operands of products rounded to BF16
    std::string method = "lora", optimizer = "adamw";
    PassOptions pass;
    Offload offload;
    std::string offload_directory = ".";
    // As optimizers do that say so, with any: each gradient is used up as soon as backward has made
    // it. No sums over passes; with most_norm a pass before each finds the norm.
    bool update_in_backward = false;
    std::uint64_t seed = 0;
    double weight_decay = 0;
    std::string run;          // what else a checkpoint must agree with
    std::int64_t passes = 1;  // of a step, on one rank
    double most_norm = 0;  // of all gradients together: they are scaled down to it; 0: as they are
    dist::Communicator* ranks = dist::alone();
};

struct StepResult {
    LossSums loss;    // of all batches of all ranks
    double norm = 0;  // of the gradients, before clipping
};

class Trainer {
  public:
    Trainer(const ModelSource& source, const TrainerOptions& options, Team& team);
    ~Trainer();

    // What it will hold, from headers; returns what this rank does in a step of full batches.
    static cost::TrainingWork add_to_plan(Plan& plan, const ModelSource& source,
                                          const TrainerOptions& options);

    [[nodiscard]] const ParameterSet& parameters() const noexcept;
    [[nodiscard]] ParameterSet& parameters() noexcept;
    [[nodiscard]] const Method& method() const noexcept;
    [[nodiscard]] std::int64_t steps() const noexcept;  // done so far
    // Where what is offloaded lies; null where nothing is.
    [[nodiscard]] const storage::StorageTier* tier() const noexcept;

    // Gradients of the mean loss of `batches` (one pass each) of all ranks, then an update. A rank
    // may have none, and no rank more than the one before it. Error(kFailure) when the loss or a
    // gradient is not finite: parameters are then as they were; but where gradients are used up in
    // backward without most_norm, those of the units behind the gradient have changed.
    StepResult step(std::span<const Batch> batches, double learning_rate);
    // Of this rank's batch alone.
    [[nodiscard]] LossSums evaluate(const Batch& batch);
    // Error(kFailure) naming a rank that is not where the first one is, to the bit.
    void compare_ranks();

    // Parameters and the optimizer's state, with `notes` of the caller; the file appears whole.
    void save(const std::string& path, const std::string& notes);
    // The notes. Error(kBadData) when the file is of another model, method or optimizer.
    [[nodiscard]] std::string restore(const std::string& path);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble::train
