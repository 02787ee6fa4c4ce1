// SPDX-License-Identifier: Apache-2.0
// Measures how fast a model runs, the way llama-bench does: random tokens, one warm-up, then the
// median of several repetitions, each from the same depth of the cache.
#pragma once

#include "core/plan.h"
#include "eval/record.h"
#include "model/runner.h"

namespace thimble::eval {

struct SpeedOptions {
    std::int64_t prompt_tokens = 512;
    std::int64_t decode_tokens = 128;
    std::int64_t depth_tokens = 0;  // in the cache before both
    std::int64_t repeats = 5;
};

[[nodiscard]] Speed measure_speed(Runner& runner, const SpeedOptions& options);

}  // namespace thimble::eval
