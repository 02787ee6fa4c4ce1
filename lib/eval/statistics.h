// SPDX-License-Identifier: Apache-2.0
// Tests for paired samples. Formulas: Student's t distribution and the binomial one by the
// regularised incomplete beta function (NIST Digital Library of Mathematical Functions, 8.17);
// McNemar, "Note on the sampling error of the difference between correlated proportions" (1947), in
// its exact form.
#pragma once

#include <cstdint>
#include <span>

#include "eval/moments.h"

namespace thimble::eval {

// I_x(a, b) for 0 <= x <= 1 and a, b > 0.
[[nodiscard]] double incomplete_beta(double a, double b, double x);

struct PairedTest {
    std::int64_t count = 0;
    Estimate a, b;        // means of both
    Estimate difference;  // mean of a - b, with the standard error of the pairs' differences
    double t = 0;         // difference / standard error; 0 where both are 0
    double p = 1;         // two-sided; 1 for fewer than two pairs or where nothing differs
    // Where all values are 0 or 1: pairs that only a, and only b, has as 1, and p of McNemar's
    // exact test on them instead of the t test's.
    bool binary = false;
    std::int64_t only_a = 0, only_b = 0;
};
// Spans of equal length.
[[nodiscard]] PairedTest paired_test(std::span<const double> a, std::span<const double> b);

}  // namespace thimble::eval
