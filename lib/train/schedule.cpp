// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::train {
namespace {

double cosine_wave(double waves) { return 0.5 * (1 + std::cos(2 * std::numbers::pi * waves)); }
double above(double least, double factor) { return factor * (1 - least) + least; }

void visit_least(OptionVisitor& v, double& least) {
    v.option({.name = "min-lr-ratio",
              .help = "the last learning rate as a share of the first",
              .least = 0,
              .most = 1},
             least);
}

class Constant final : public ScheduleShape {
  public:
    void visit(OptionVisitor&) override {}
    [[nodiscard]] bool warms_up() const override { return false; }
    [[nodiscard]] double factor(const ScheduleMoment&) const override { return 1; }
};

class ConstantWithWarmup final : public ScheduleShape {
  public:
    void visit(OptionVisitor&) override {}
    [[nodiscard]] double factor(const ScheduleMoment&) const override { return 1; }
};

class Linear final : public ScheduleShape {
  public:
    void visit(OptionVisitor& v) override { visit_least(v, least_); }
    [[nodiscard]] double factor(const ScheduleMoment& moment) const override {
        return above(least_, std::max(0.0, 1 - moment.progress()));
    }

  private:
    double least_ = 0;
};

class Cosine final : public ScheduleShape {
  public:
    void visit(OptionVisitor& v) override {
        v.option({.name = "num-cycles", .help = "waves; a half goes down once", .least = 0},
                 waves_);
        visit_least(v, least_);
    }
    [[nodiscard]] double factor(const ScheduleMoment& moment) const override {
        return above(least_, cosine_wave(waves_ * moment.progress()));
    }

  private:
    double waves_ = 0.5, least_ = 0;
};

class CosineWithRestarts final : public ScheduleShape {
  public:
    void visit(OptionVisitor& v) override {
        v.option({.name = "num-cycles", .help = "times that it goes down", .least = 1}, times_);
    }
    [[nodiscard]] double factor(const ScheduleMoment& moment) const override {
        const double at = static_cast<double>(times_) * moment.progress();
        return moment.progress() >= 1 ? 0 : cosine_wave(0.5 * (at - std::floor(at)));
    }

  private:
    std::int64_t times_ = 1;
};

class Polynomial final : public ScheduleShape {
  public:
    void visit(OptionVisitor& v) override {
        v.option({.name = "power", .help = "of what is left of training", .least = 0}, power_);
        visit_least(v, least_);
    }
    [[nodiscard]] double factor(const ScheduleMoment& moment) const override {
        return above(least_, std::pow(std::max(0.0, 1 - moment.progress()), power_));
    }

  private:
    double power_ = 1, least_ = 0;
};

class InverseSqrt final : public ScheduleShape {
  public:
    void visit(OptionVisitor& v) override {
        v.option({.name = "timescale",
                  .help = "steps after which the rate is lower by the root of 2; 0: those of "
                          "warm-up, or 10000",
                  .least = 0},
                 timescale_);
    }
    [[nodiscard]] double factor(const ScheduleMoment& moment) const override {
        const std::int64_t given = timescale_ > 0 ? timescale_ : moment.warmup;
        const auto scale = static_cast<double>(given > 0 ? given : 10000);
        const auto since = static_cast<double>(moment.step - moment.warmup);
        return 1 / std::sqrt((since + scale) / scale);
    }

  private:
    std::int64_t timescale_ = 0;
};

class WarmupStableDecay final : public ScheduleShape {
  public:
    void visit(OptionVisitor& v) override {
        v.option({.name = "decay-ratio",
                  .help = "share of all steps that the decay takes",
                  .least = 0,
                  .most = 1},
                 decay_ratio_);
        v.option({.name = "decay-type",
                  .help = "how it goes down",
                  .choices = {"cosine", "linear", "1-sqrt"}},
                 type_);
        visit_least(v, least_);
    }
    [[nodiscard]] double warmup_start() const override { return least_; }
    [[nodiscard]] double factor(const ScheduleMoment& moment) const override {
        const auto wanted = std::ceil(decay_ratio_ * static_cast<double>(moment.total));
        const double steps = std::min(wanted, static_cast<double>(moment.total - moment.warmup));
        const double begin = static_cast<double>(moment.total) - steps;
        const double at = (static_cast<double>(moment.step) - begin) / std::max(1.0, steps);
        if (at < 0) return 1;
        if (at >= 1) return least_;
        if (type_ == "cosine") return above(least_, cosine_wave(0.5 * at));
        return above(least_, type_ == "linear" ? 1 - at : 1 - std::sqrt(at));
    }

  private:
    double decay_ratio_ = 0.1, least_ = 0;
    std::string type_ = "cosine";
};

struct NamedShape {
    std::string_view name;
    std::unique_ptr<ScheduleShape> (*make)();
};
template <class Shape>
std::unique_ptr<ScheduleShape> make_shape() {
    return std::make_unique<Shape>();
}
constexpr NamedShape kShapes[] = {
    {"constant", make_shape<Constant>},
    {"constant_with_warmup", make_shape<ConstantWithWarmup>},
    {"linear", make_shape<Linear>},
    {"cosine", make_shape<Cosine>},
    {"cosine_with_restarts", make_shape<CosineWithRestarts>},
    {"polynomial", make_shape<Polynomial>},
    {"inverse_sqrt", make_shape<InverseSqrt>},
    {"warmup_stable_decay", make_shape<WarmupStableDecay>},
};
constexpr std::string_view kWhere = "--lr-scheduler";

std::unique_ptr<ScheduleShape> make_named(std::string_view spec) {
    const std::size_t colon = spec.find(':');
    const std::string_view name = spec.substr(0, colon);
    std::vector<std::string> names;
    for (const NamedShape& named : kShapes) {
        names.emplace_back(named.name);
        if (named.name != name) continue;
        auto shape = named.make();
        parse_inline_options(
            colon == std::string_view::npos ? std::string_view{} : spec.substr(colon + 1),
            [&](OptionVisitor& v) { shape->visit(v); }, kWhere);
        return shape;
    }
    throw Error(Exit::kUsage, std::string(kWhere), "unknown schedule '" + escaped(name) + "'",
                did_you_mean(name, names));
}

std::int64_t resolved_warmup(const ScheduleOptions& options, std::int64_t total,
                             const ScheduleShape& shape) {
    if (options.warmup_steps > 0 && options.warmup_ratio > 0) {
        throw Error(Exit::kUsage, "--warmup-ratio", "warm-up is given in steps, too",
                    "leave one of --warmup-steps and --warmup-ratio out");
    }
    const bool given = options.warmup_steps > 0 || options.warmup_ratio > 0;
    if (given && !shape.warms_up()) {
        throw Error(Exit::kUsage, std::string(kWhere), "constant has no warm-up",
                    "constant_with_warmup has");
    }
    if (options.warmup_steps > total) {
        throw Error(Exit::kUsage, "--warmup-steps",
                    std::to_string(options.warmup_steps) + " steps of warm-up in a training of " +
                        std::to_string(total));
    }
    if (options.warmup_steps > 0) return options.warmup_steps;
    return static_cast<std::int64_t>(std::ceil(options.warmup_ratio * static_cast<double>(total)));
}

}  // namespace

void ScheduleOptions::visit(OptionVisitor& v) {
    v.option({.name = "learning-rate",
              .help = "largest learning rate",
              .value = "X",
              .least = 0,
              .most = 1000,
              .also = "lr"},
             learning_rate);
    v.option({.name = "lr-scheduler",
              .help = "how the learning rate goes down after warm-up",
              .value = "NAME",
              .also = "lr-scheduler-type",
              .inline_forms = schedule_forms},
             schedule);
    v.option({.name = "warmup-steps",
              .help = "steps in which the learning rate goes up",
              .value = "N",
              .least = 0},
             warmup_steps);
    v.option({.name = "warmup-ratio",
              .help = "the same as a share of all steps",
              .value = "X",
              .least = 0,
              .most = 1},
             warmup_ratio);
    v.option({.name = "weight-decay",
              .help = "share of a matrix's weights that learning rate 1 takes off in a step",
              .value = "X",
              .least = 0,
              .most = 1000},
             weight_decay);
    v.option({.name = "max-grad-norm",
              .help = "gradients are scaled down to this norm of all together; 0: never",
              .value = "X",
              .least = 0},
             max_grad_norm);
}

double ScheduleMoment::progress() const noexcept {
    return static_cast<double>(step - warmup) /
           static_cast<double>(std::max<std::int64_t>(1, total - warmup));
}

std::vector<InlineForm> schedule_forms() {
    std::vector<InlineForm> forms;
    for (const NamedShape& named : kShapes) {
        const auto shape = named.make();
        forms.push_back(
            {std::string(named.name), list_options([&](OptionVisitor& v) { shape->visit(v); })});
    }
    return forms;
}

Schedule::Schedule(const ScheduleOptions& options, std::int64_t total_steps)
    : learning_rate_(options.learning_rate),
      warmup_(0),
      total_(total_steps),
      shape_(make_named(options.schedule)) {
    warmup_ = resolved_warmup(options, total_steps, *shape_);
}

double Schedule::learning_rate_at(std::int64_t step) const {
    const ScheduleMoment moment{step - 1, warmup_, total_};
    if (moment.step < warmup_) {
        const double share = static_cast<double>(moment.step) / static_cast<double>(warmup_);
        return learning_rate_ * above(shape_->warmup_start(), share);
    }
    return learning_rate_ * shape_->factor(moment);
}

double clip_factor(double sum_of_squares, double max_norm) {
    if (max_norm == 0) return 1;
    return std::min(1.0, max_norm / (std::sqrt(sum_of_squares) + 1e-6));
}

}  // namespace thimble::train
