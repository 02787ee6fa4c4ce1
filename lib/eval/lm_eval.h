// SPDX-License-Identifier: Apache-2.0
// A record in the shape of lm-evaluation-harness' results file, for the tools that read those:
// results.{task}.{"metric,filter"} with "metric_stderr,filter", configs, versions, n-shot,
// higher_is_better, n-samples, config. What that shape has no place for stands under "thimble".
#pragma once

#include <string>

#include "eval/record.h"

namespace thimble::eval {

struct LmEvalFacts {
    std::string version;  // of this program
    double date = 0;      // seconds since 1970
    std::int64_t batch = 0;
    std::int64_t limit = 0;  // 0: none
    std::int64_t seed = 0;
    double wall_seconds = 0;
};
[[nodiscard]] Json lm_eval_json(const Record& record, const LmEvalFacts& facts);

}  // namespace thimble::eval
