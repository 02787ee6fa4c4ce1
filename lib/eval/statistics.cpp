// SPDX-License-Identifier: Apache-2.0
#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace thimble::eval {
namespace {

// The continued fraction of I_x(a, b) beside its leading factor, from its tail to its head; it
// converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
    const int terms = 200 + static_cast<int>(3 * std::sqrt(std::max(a, b)));
    double tail = 1;
    for (int m = terms; m >= 1; --m) {
        const double k = m;
        const double even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k));
        tail = 1 + even / tail;
        const double n = k - 1;
        const double odd = -(a + n) * (a + b + n) * x / ((a + 2 * n) * (a + 2 * n + 1));
        tail = 1 + odd / tail;
    }
    return 1 / tail;
}

double two_sided_t(double t, double degrees) {
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t));
}

// Twice the smaller tail of a fair coin thrown n times.
double exact_sign_test(std::int64_t heads, std::int64_t tails) {
    const std::int64_t n = heads + tails, less = std::min(heads, tails);
    if (n == 0) return 1;
    // P(X <= k) = I_{1/2}(n - k, k + 1)
    const double tail =
        incomplete_beta(static_cast<double>(n - less), static_cast<double>(less + 1), 0.5);
    return std::min(1.0, 2 * tail);
}

bool is_binary(std::span<const double> values) {
    return std::all_of(values.begin(), values.end(), [](double v) { return v == 0 || v == 1; });
}

}  // namespace

double incomplete_beta(double a, double b, double x) {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    const double log_factor =
        std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x);
    const double factor = std::exp(log_factor);
    if (x < (a + 1) / (a + b + 2)) return factor * beta_fraction(a, b, x) / a;
    return 1 - factor * beta_fraction(b, a, 1 - x) / b;
}

PairedTest paired_test(std::span<const double> a, std::span<const double> b) {
    PairedTest out;
    out.count = std::ssize(a);
    out.a = estimate_of(a);
    out.b = estimate_of(b);
    std::vector<double> differences;
    for (std::size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
    out.difference = estimate_of(differences);
    out.binary = is_binary(a) && is_binary(b);
    for (const double d : differences) {
        out.only_a += d > 0 ? 1 : 0;
        out.only_b += d < 0 ? 1 : 0;
    }
    const double error = out.difference.standard_error;
    if (error > 0) {
        out.t = out.difference.value / error;
    } else if (out.difference.value != 0 && out.count > 1) {
        out.t = std::copysign(std::numeric_limits<double>::infinity(), out.difference.value);
    }
    if (out.binary) {
        out.p = exact_sign_test(out.only_a, out.only_b);
    } else if (out.count > 1 && out.t != 0) {
        out.p = std::isinf(out.t) ? 0 : two_sided_t(out.t, static_cast<double>(out.count - 1));
    }
    return out;
}

}  // namespace thimble::eval
