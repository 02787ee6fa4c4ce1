// SPDX-License-Identifier: Apache-2.0
// Running a model in tests: all logits of a prompt as doubles, greedy continuation, tolerances.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/runner.h"

namespace thimble::test {

// Logits of every token, [tokens, vocab], from one new sequence.
[[nodiscard]] std::vector<double> all_logits(Runner& runner, std::span<const std::int32_t> tokens);
[[nodiscard]] std::vector<std::int32_t> greedy(Runner& runner, std::span<const std::int32_t> prompt,
                                               std::size_t count);

// Largest difference of two rows of logits that may come from rounding alone, where `epsilon` is
// the unit roundoff of the coarser arithmetic: each sum of n products errs by about sqrt(n) *
// epsilon of its size, the errors of all sums on the way from the embedding to a logit add up, and
// attention and norms may enlarge what enters them.
[[nodiscard]] double rounding_tolerance(const ModelSpec& spec, std::span<const double> row,
                                        double epsilon);

}  // namespace thimble::test
