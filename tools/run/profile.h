// SPDX-License-Identifier: Apache-2.0
// run --profile: where a token's time goes, operation by operation.
#pragma once

#include "cli/tool.h"
#include "model/runner.h"
#include "ops/op_clock.h"

namespace thimble::run {

// Times the runner's steps for as long as it lives.
class StepProfile {
  public:
    // Memory that is read to learn what it gives.
    static constexpr std::size_t kMemoryBytes = std::size_t{128} << 20;

    StepProfile(Runner& runner, Team& team);
    ~StepProfile();
    StepProfile(const StepProfile&) = delete;
    StepProfile& operator=(const StepProfile&) = delete;

    // Measures memory's bandwidth and what unpacking the model's weights costs, then writes tables
    // to stderr and "profile" to the report.
    void finish(cli::Context& context);

  private:
    Runner& runner_;
    Team& team_;
    OpClock clock_;
};

}  // namespace thimble::run
