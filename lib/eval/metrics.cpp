// SPDX-License-Identifier: Apache-2.0
#include "eval/metrics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace thimble::eval {
namespace {

// Sums run in two lanes, the registers of the baseline instruction set, so that they have one order
// of additions everywhere.
constexpr std::int64_t kLanes = 2;
typedef double Lanes __attribute__((vector_size(kLanes * sizeof(double))));
typedef std::int64_t Bits __attribute__((vector_size(kLanes * sizeof(std::int64_t))));

double fold(const Lanes& v) { return v[0] + v[1]; }

template <class Real>
inline void load(const Real* x, Lanes& out) {
    typedef Real Stored __attribute__((vector_size(kLanes * sizeof(Real))));
    Stored stored;
    std::memcpy(&stored, x, sizeof(stored));
    out = __builtin_convertvector(stored, Lanes);
}

// v = exp(v) for v <= 0 to within 2 ulp, 0 below -708; NaN stays NaN.
inline void exp_of_negative(Lanes& v) {
    constexpr double kLog2e = 1.4426950408889634074;
    constexpr double kLn2High = 6.93147180369123816490e-01;  // 33 bits: k * kLn2High is exact
    constexpr double kLn2Low = 1.90821492927058770002e-10;
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
    const Bits tiny = v < -708.0;
    const Lanes clamped = tiny ? Lanes{} - 708.0 : v;
    const Lanes shifted = clamped * kLog2e + kRound;
    const Lanes k = shifted - kRound;
    const Lanes r = (clamped - k * kLn2High) - k * kLn2Low;  // |r| <= ln(2) / 2
    Lanes p = Lanes{} + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    // The integer k sits in the low bits of `shifted`; as exponent bits it multiplies by 2^k.
    const Bits exponent = std::bit_cast<Bits>(shifted) << 52;
    const Lanes power = std::bit_cast<Lanes>(exponent + std::bit_cast<Bits>(Lanes{} + 1.0));
    v = tiny ? Lanes{} : p * power;
}

// Calls body(i) for each whole group of lanes from element i on, and returns how many are left.
template <class Body>
inline std::int64_t for_lanes(std::int64_t n, Body&& body) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i);
    return n - i;
}

// A last, partial group: `count` elements, then `fill`.
template <class Real>
std::array<Real, kLanes> padded(const Real* x, std::int64_t count, Real fill) {
    std::array<Real, kLanes> out;
    out.fill(fill);
    std::copy(x, x + count, out.begin());
    return out;
}
constexpr float kNever = -1e30F;  // a logit whose probability is 0 in any row

template <class Real>
std::int32_t argmax(const Real* x, std::int64_t n) {
    Lanes best = Lanes{} - std::numeric_limits<double>::infinity();
    const auto take = [&](const Real* from) {
        Lanes v;
        load(from, v);
        best = v > best ? v : best;
    };
    const std::int64_t rest = for_lanes(n, [&](std::int64_t i) { take(x + i); });
    if (rest > 0)
        take(padded<Real>(x + n - rest, rest, -std::numeric_limits<Real>::infinity()).data());
    double largest = best[0];
    for (int j = 1; j < kLanes; ++j) largest = std::max(largest, static_cast<double>(best[j]));
    const Real* at = std::find(x, x + n, static_cast<Real>(largest));
    return at == x + n ? 0 : static_cast<std::int32_t>(at - x);
}

template <class Real>
double log_sum_exp(const Real* x, std::int64_t n, double largest) {
    Lanes sum{};
    const auto add = [&](const Real* from) {
        Lanes v;
        load(from, v);
        v -= largest;
        exp_of_negative(v);
        sum += v;
    };
    const std::int64_t rest = for_lanes(n, [&](std::int64_t i) { add(x + i); });
    if (rest > 0) add(padded<Real>(x + n - rest, rest, kNever).data());
    return largest + std::log(fold(sum));
}

template <class Real>
double divergence(const Real* ref, double ref_lse, const Real* x, double lse, std::int64_t n) {
    Lanes sum{};
    const auto add = [&](const Real* ref_from, const Real* from) {
        Lanes log_p, log_q;
        load(ref_from, log_p);
        load(from, log_q);
        log_p -= ref_lse;
        log_q -= lse;
        Lanes p = log_p;
        exp_of_negative(p);
        sum += p * (log_p - log_q);
    };
    const std::int64_t rest = for_lanes(n, [&](std::int64_t i) { add(ref + i, x + i); });
    if (rest > 0) {
        add(padded<Real>(ref + n - rest, rest, kNever).data(),
            padded<Real>(x + n - rest, rest, kNever).data());
    }
    return fold(sum);
}

template <class Real>
RowScore score(const Real* x, std::int64_t n, std::int32_t target) {
    RowScore row;
    row.top = argmax(x, n);
    row.log_sum_exp = log_sum_exp(x, n, static_cast<double>(x[row.top]));
    row.nll = row.log_sum_exp - static_cast<double>(x[target]);
    return row;
}

template <class Real>
RowScore score(const Real* x, const Real* ref, std::int64_t n, std::int32_t target) {
    RowScore row = score(x, n, target);
    const RowScore base = score(ref, n, target);
    row.reference_nll = base.nll;
    row.same_top = row.top == base.top;
    row.kld = divergence(ref, base.log_sum_exp, x, row.log_sum_exp, n);
    return row;
}

}  // namespace

RowScore score_row(View logits, std::int32_t target) {
    return logits.dtype == DType::kF64 ? score(logits.row<double>(0), logits.cols, target)
                                       : score(logits.row<float>(0), logits.cols, target);
}

RowScore score_row(View logits, View reference, std::int32_t target) {
    return logits.dtype == DType::kF64
               ? score(logits.row<double>(0), reference.row<double>(0), logits.cols, target)
               : score(logits.row<float>(0), reference.row<float>(0), logits.cols, target);
}

ScoreSums::ScoreSums(std::int64_t capacity, bool with_reference)
    : klds_(with_reference ? static_cast<std::size_t>(capacity) * sizeof(double) : 0,
            Purpose::kLogits) {}

std::uint64_t ScoreSums::charged_bytes(std::int64_t capacity, bool with_reference) {
    return with_reference
               ? Buffer::charged_bytes(static_cast<std::size_t>(capacity) * sizeof(double))
               : 0;
}

void ScoreSums::add(const RowScore& row) {
    if (klds_) {
        klds_.as<double>()[nll_.count()] = row.kld;
        const double delta_p = std::exp(-row.nll) - std::exp(-row.reference_nll);
        reference_nll_.add(row.reference_nll);
        nll_change_.add(row.nll - row.reference_nll);
        kld_.add(row.kld);
        same_top_.add(row.same_top ? 1.0 : 0.0);
        delta_p_.add(delta_p);
        delta_p_squared_.add(delta_p * delta_p);
    }
    nll_.add(row.nll);
}

PerplexityFigures ScoreSums::perplexity() const {
    const Estimate nll = nll_.estimate();
    const double perplexity = std::exp(nll.value);
    return {nll_.count(), nll, {perplexity, perplexity * nll.standard_error}};
}

DivergenceFigures ScoreSums::divergence() {
    DivergenceFigures f;
    const double perplexity = std::exp(nll_.mean());
    const double reference = std::exp(reference_nll_.mean());
    f.reference_perplexity = {reference, reference * reference_nll_.estimate().standard_error};
    f.kld = kld_.estimate();

    const auto sorted = klds_.span<double>().first(static_cast<std::size_t>(kld_.count()));
    std::sort(sorted.begin(), sorted.end());
    f.kld_median = percentile(sorted, 0.5);
    f.kld_p99 = percentile(sorted, 0.99);
    f.kld_p999 = percentile(sorted, 0.999);
    f.kld_max = percentile(sorted, 1.0);

    f.same_top = same_top_.estimate();
    f.mean_delta_p = delta_p_.estimate();
    const Estimate square = delta_p_squared_.estimate();
    const double rms = std::sqrt(square.value);
    f.rms_delta_p = {rms, rms > 0 ? square.standard_error / (2 * rms) : 0};

    const Estimate change = nll_change_.estimate();
    const double ratio = std::exp(change.value);
    f.perplexity_ratio = {ratio, ratio * change.standard_error};
    // Var(a e^x - b e^y) to first order, with cov = (var x + var y - var(x - y)) / 2.
    const double var = nll_.variance_of_mean(), var_reference = reference_nll_.variance_of_mean();
    const double covariance = (var + var_reference - nll_change_.variance_of_mean()) / 2;
    const double var_change = perplexity * perplexity * var +
                              reference * reference * var_reference -
                              2 * perplexity * reference * covariance;
    f.perplexity_change = {perplexity - reference, std::sqrt(std::max(var_change, 0.0))};
    return f;
}

double percentile(std::span<const double> sorted, double fraction) {
    if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
    const double position = fraction * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    const double part = position - static_cast<double>(below);
    return (1 - part) * sorted[below] + part * sorted[above];
}

std::int32_t most_likely(View logits) {
    const auto best = [&](const auto* row) {
        return static_cast<std::int32_t>(std::max_element(row, row + logits.cols) - row);
    };
    return logits.dtype == DType::kF64 ? best(logits.row<double>(0)) : best(logits.row<float>(0));
}

}  // namespace thimble::eval
