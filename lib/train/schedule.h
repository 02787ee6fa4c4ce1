// SPDX-License-Identifier: Apache-2.0
// How fast to learn at each step, under the names that transformers' users know. A step's learning
// rate is the one that transformers' schedule of that name gives: step 1 has the rate of its step
// 0, which is 0 where there is warm-up.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"

namespace thimble::train {

struct ScheduleOptions {
    double learning_rate = 5e-5;
    std::string schedule = "linear";  // "cosine:min-lr-ratio=0.1"
    std::int64_t warmup_steps = 0;
    double warmup_ratio = 0;  // of all steps; one of the two
    double weight_decay = 0;
    double max_grad_norm = 1;  // of all gradients together; 0: any
    void visit(OptionVisitor& v);
};

// What a schedule is asked: a step from 0, and where warm-up and training end.
struct ScheduleMoment {
    std::int64_t step = 0, warmup = 0, total = 0;
    // 0 at the end of warm-up, 1 at the end of training.
    [[nodiscard]] double progress() const noexcept;
};

// Shape of a schedule after (or without) warm-up: the factor of the learning rate.
class ScheduleShape {
  public:
    virtual ~ScheduleShape() = default;
    virtual void visit(OptionVisitor& v) = 0;
    [[nodiscard]] virtual bool warms_up() const { return true; }
    [[nodiscard]] virtual double warmup_start() const { return 0; }  // the first step's factor
    [[nodiscard]] virtual double factor(const ScheduleMoment& moment) const = 0;
};
// What --lr-scheduler can be, for OptionInfo::inline_forms.
[[nodiscard]] std::vector<InlineForm> schedule_forms();

class Schedule {
  public:
    // Error(kUsage) on an unknown name, and on warm-up that is given twice, goes past `total_steps`
    // or has no effect.
    Schedule(const ScheduleOptions& options, std::int64_t total_steps);

    // `step` from 1.
    [[nodiscard]] double learning_rate_at(std::int64_t step) const;
    [[nodiscard]] std::int64_t warmup_steps() const noexcept { return warmup_; }

  private:
    double learning_rate_;
    std::int64_t warmup_, total_;
    std::unique_ptr<ScheduleShape> shape_;
};

// The factor of gradients whose squares add up to `sum_of_squares`, so that their norm is at most
// `max_norm` (0: any), as torch.nn.utils.clip_grad_norm_ has it.
[[nodiscard]] double clip_factor(double sum_of_squares, double max_norm);

}  // namespace thimble::train
