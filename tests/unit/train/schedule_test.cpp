// SPDX-License-Identifier: Apache-2.0
#include "train/schedule.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/error.h"
#include "tests/support/golden_train.h"

using namespace thimble;
using namespace thimble::test;
using namespace thimble::train;

TEST_CASE("schedule: the learning rates are transformers'") {
    const auto total = golden_train().find("total_steps")->as_int("golden");
    std::vector<std::string> seen;
    for (const Json& golden : golden_train().find("schedules")->as_array("golden")) {
        ScheduleOptions options;
        options.learning_rate = golden_train().find("learning_rate")->as_double("golden");
        options.schedule = golden.find("spec")->as_string("golden");
        options.warmup_steps = golden.find("warmup")->as_int("golden");
        seen.push_back(options.schedule.substr(0, options.schedule.find(':')));
        CAPTURE(options.schedule);
        const Schedule schedule(options, total);
        const std::vector<double> rates = numbers(*golden.find("rates"));
        REQUIRE(std::ssize(rates) == total);
        for (std::int64_t step = 1; step <= total; ++step) {
            CAPTURE(step);
            const double want = rates[static_cast<std::size_t>(step - 1)];
            CHECK(std::abs(schedule.learning_rate_at(step) - want) <=
                  1e-15 * options.learning_rate * 16);
        }
    }
    for (const InlineForm& form : schedule_forms())  // none is left out
        CHECK(std::find(seen.begin(), seen.end(), form.name) != seen.end());
}

TEST_CASE("schedule: warm-up as a share of all steps, rounded up") {
    for (const auto& [ratio, steps] : {std::pair{0.1, 4}, {0.03, 2}, {0.0, 0}, {1.0, 40}}) {
        ScheduleOptions options;
        options.warmup_ratio = ratio;
        const Schedule schedule(options, 40);
        CHECK(schedule.warmup_steps() == steps);
        ScheduleOptions same;
        same.warmup_steps = steps;
        for (std::int64_t step = 1; step <= 40; ++step)
            CHECK(schedule.learning_rate_at(step) == Schedule(same, 40).learning_rate_at(step));
    }
}

TEST_CASE("schedule: what has no effect or no meaning is refused") {
    const auto refused = [](const ScheduleOptions& options, const char* what) {
        CHECK_THROWS_WITH_AS(Schedule(options, 40), what, Error);
    };
    ScheduleOptions options;
    options.warmup_steps = 2, options.warmup_ratio = 0.1;
    refused(options,
            "--warmup-ratio: warm-up is given in steps, too (leave one of --warmup-steps "
            "and --warmup-ratio out)");
    options = {};
    options.schedule = "constant", options.warmup_ratio = 0.1;
    refused(options, "--lr-scheduler: constant has no warm-up (constant_with_warmup has)");
    options = {};
    options.warmup_steps = 41;
    refused(options, "--warmup-steps: 41 steps of warm-up in a training of 40");
    options = {};
    options.schedule = "cosin";
    refused(options, "--lr-scheduler: unknown schedule 'cosin' (did you mean 'cosine'?)");
    options.schedule = "linear:num-cycles=2";
    CHECK_THROWS_AS(Schedule(options, 40), Error);
}

TEST_CASE("schedule: every name and option has help, and defaults parse") {
    ScheduleOptions options;
    const auto records = list_options([&](OptionVisitor& v) { options.visit(v); });
    CHECK(records.size() == 6);
    for (const OptionRecord& record : records) CHECK(std::string(record.info.help) != "");
    for (const InlineForm& form : schedule_forms()) {
        options.schedule = form.name;
        const Schedule schedule(options, 10);
        CHECK(schedule.learning_rate_at(1) > 0);
    }
}

TEST_CASE("clip_factor: gradients end at the largest norm, and small ones stay") {
    CHECK(clip_factor(1e6, 0) == 1);
    CHECK(clip_factor(0, 1) == 1);
    CHECK(clip_factor(0.25, 1) == 1);
    CHECK(clip_factor(16, 1) == doctest::Approx(0.25).epsilon(1e-6));
    CHECK(clip_factor(16, 1) * 4 <= 1);
    CHECK(clip_factor(16, 2.5) == doctest::Approx(2.5 / 4.000001).epsilon(1e-14));
}
