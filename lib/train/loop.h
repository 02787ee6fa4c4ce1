// SPDX-License-Identifier: Apache-2.0
// A whole training run: batches in their order, learning rates, validation, checkpoints, and going
// on after a kill as if there had been none. Ranks share the rows of each step and of a validation;
// a checkpoint is that of all, however many they are.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "text/tokenizer.h"
#include "train/data/batch_stream.h"
#include "train/schedule.h"
#include "train/trainer.h"

namespace thimble::train {

struct LoopOptions {
    std::int64_t steps = 0;                           // in all; 0: as many as the epochs have
    std::int64_t epochs = 1;                          // passes over the data
    std::int64_t batch_rows = 1;                      // rows of a pass
    std::int64_t accumulation = 1;                    // passes of a step
    std::int64_t validate_every = 0, save_every = 0;  // steps; 0: at the end only, never
    DataOptions data;
    ScheduleOptions schedule;
    TrainerOptions trainer;
    std::string state;  // the checkpoint's path; empty: none is written
    void visit(OptionVisitor& v);
};

struct StepReport {
    std::int64_t step = 0, steps = 0;
    double loss = 0;  // mean over targets, in nats
    double learning_rate = 0, gradient_norm = 0;
    std::int64_t tokens = 0, targets = 0, epoch = 0;
    double seconds = 0;  // of this step
};
struct ValidationReport {
    std::int64_t step = 0, targets = 0;
    double loss = 0;
};

struct LoopEvents {
    std::function<bool(const StepReport&)> step;  // false: stop after it
    std::function<void(const ValidationReport&)> validated;
    std::function<void(std::int64_t step)> saved;
};

class Loop {
  public:
    // Reads the data once, to count it.
    Loop(const ModelSource& source, const Tokenizer& tokenizer, LoopOptions options);
    ~Loop();

    [[nodiscard]] std::int64_t total_steps() const noexcept;
    [[nodiscard]] const TrainingData& data() const noexcept;
    // What start() and run() will hold besides what the data holds already.
    void add_to_plan(Plan& plan) const;
    // What options would make the whole plan fit the budget; where it fits, or has no limit, the
    // first that would save memory.
    [[nodiscard]] std::string cheapest_change(const Plan& plan, const Budget& budget) const;
    // The model in memory; where a checkpoint of this run lies, what it says.
    void start(Team& team, Device device, Isa isa);
    [[nodiscard]] Trainer& trainer() noexcept;
    // Until the last step, or a false of any rank's events.step: then the first rank saves the
    // state, if it has a place. Returns whether all steps are done. Reports say the same on all
    // ranks; all must hand over the same events, but for what they do.
    bool run(const LoopEvents& events);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble::train
