// SPDX-License-Identifier: Apache-2.0
#include "decode/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"
#include "kernels/layout/rng.h"

namespace thimble {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Uniform in [0, 1) with 53 random bits.
double uniform(std::uint64_t seed, std::uint64_t draw) {
    const Philox4 r = philox(seed, draw);
    const std::uint64_t bits = (static_cast<std::uint64_t>(r.v[0]) << 32 | r.v[1]) >> 11;
    return static_cast<double>(bits) * 0x1p-53;
}

// Lowers the logits of tokens seen before; each once, however often it was seen.
template <class Real>
void penalise(Real* logits, std::int64_t vocab, std::span<const std::int32_t> seen,
              double penalty) {
    for (std::size_t i = 0; i < seen.size(); ++i) {
        const std::int32_t token = seen[i];
        if (token < 0 || token >= vocab) continue;
        const auto earlier = seen.first(i);
        if (std::find(earlier.begin(), earlier.end(), token) != earlier.end()) continue;
        Real& logit = logits[token];
        logit = static_cast<Real>(logit > 0 ? logit / penalty : logit * penalty);
    }
}

[[noreturn]] void throw_not_a_number(std::int64_t token) {
    throw Error(Exit::kBadData, "logits",
                "token " + std::to_string(token) + " has a logit that is not a number",
                "check the weights: quantize verify");
}
[[noreturn]] void throw_none() { throw Error(Exit::kBadData, "logits", "all are minus infinity"); }

template <class Real>
std::int32_t most_likely(const Real* logits, std::int64_t vocab) {
    std::int64_t best = -1;
    for (std::int64_t i = 0; i < vocab; ++i) {
        if (!(logits[i] < std::numeric_limits<Real>::infinity())) throw_not_a_number(i);  // NaN too
        if (best < 0 ? logits[i] > -std::numeric_limits<Real>::infinity()
                     : logits[i] > logits[best])
            best = i;
    }
    if (best < 0) throw_none();
    return static_cast<std::int32_t>(best);
}

}  // namespace

void SamplerOptions::visit(OptionVisitor& v) {
    v.group("Sampling");
    v.option({.name = "temp", .help = "temperature; 0: the most likely token", .least = 0},
             temperature);
    v.option({.name = "top-k", .help = "only the k most likely tokens; 0: all", .least = 0}, top_k);
    v.option({.name = "top-p",
              .help = "only the most likely tokens that make up this probability; 1: all",
              .least = 0,
              .most = 1},
             top_p);
    v.option({.name = "min-p",
              .help = "only tokens at least this likely beside the most likely one; 0: all",
              .least = 0,
              .most = 1},
             min_p);
    v.option({.name = "repeat-penalty",
              .help = "divides the logits of recent tokens; 1: off",
              .least = 0.01},
             repeat_penalty);
    v.option({.name = "repeat-last-n", .help = "tokens that the penalty looks back", .least = 0},
             repeat_last);
}

std::int64_t Sampler::slots(const SamplerOptions& options, std::int64_t vocab) {
    if (options.greedy()) return 0;
    // Room to gather twice the wanted number before the lower half is cut away.
    return options.top_k > 0 ? std::min(vocab, 2 * std::min(options.top_k, vocab)) : vocab;
}

std::size_t Sampler::bytes(const SamplerOptions& options, std::int64_t vocab) {
    return Buffer::charged_bytes(static_cast<std::size_t>(slots(options, vocab)) *
                                 sizeof(Candidate));
}

Sampler::Sampler(const SamplerOptions& options, std::int64_t vocab, std::uint64_t seed)
    : options_(options),
      seed_(seed),
      candidates_(static_cast<std::size_t>(slots(options, vocab)) * sizeof(Candidate),
                  Purpose::kLogits) {}

std::int32_t Sampler::sample(View logits, std::span<const std::int32_t> recent,
                             std::uint64_t draw) {
    const auto back = static_cast<std::size_t>(options_.repeat_last);
    const auto seen = recent.last(std::min(recent.size(), back));
    if (logits.dtype == DType::kF64) return choose(logits.row<double>(0), logits.cols, seen, draw);
    return choose(logits.row<float>(0), logits.cols, seen, draw);
}

// What min-p asks of a logit beside the largest one.
double Sampler::least_beside(double top) const {
    return options_.min_p > 0 ? top + std::log(options_.min_p) : kMinusInfinity;
}

// The top-k candidates with a logit of at least `least`, unordered.
template <class Real>
std::span<Sampler::Candidate> Sampler::collect(const Real* logits, std::int64_t vocab,
                                               double least) {
    const std::span<Candidate> room = candidates_.span<Candidate>();
    const auto wanted = static_cast<std::size_t>(options_.top_k > 0 ? options_.top_k : vocab);
    std::size_t n = 0;
    const auto cut = [&] {
        std::nth_element(room.begin(), room.begin() + static_cast<std::ptrdiff_t>(wanted) - 1,
                         room.begin() + static_cast<std::ptrdiff_t>(n), before);
        n = wanted;
        // Ids ascend, so an equal logit that comes later loses against the least one kept.
        least = std::nextafter(room[wanted - 1].logit, std::numeric_limits<double>::infinity());
    };
    for (std::int64_t i = 0; i < vocab; ++i) {
        if (static_cast<double>(logits[i]) < least) continue;
        if (n == room.size()) cut();
        if (static_cast<double>(logits[i]) < least) continue;
        room[n++] = {static_cast<double>(logits[i]), static_cast<std::int32_t>(i)};
    }
    if (n > wanted) cut();
    return room.first(n);
}

template <class Real>
std::int32_t Sampler::choose(Real* logits, std::int64_t vocab, std::span<const std::int32_t> recent,
                             std::uint64_t draw) {
    if (options_.repeat_penalty != 1.0) penalise(logits, vocab, recent, options_.repeat_penalty);
    const std::int32_t best = most_likely(logits, vocab);
    if (options_.greedy()) return best;

    const auto top = static_cast<double>(logits[best]);
    const double least = least_beside(top);
    // Top-p counts in the probability of everything that top-k leaves, min-p cuts it or not.
    const bool whole = options_.top_p < 1 && options_.top_k > 0;
    const std::span<Candidate> kept = collect(logits, vocab, whole ? kMinusInfinity : least);
    std::sort(kept.begin(), kept.end(), before);
    double all = 0;
    if (options_.top_p < 1 && !whole) {
        for (std::int64_t i = 0; i < vocab; ++i)
            all += std::exp(static_cast<double>(logits[i]) - top);
    }
    return pick(kept, all, draw);
}

std::int32_t Sampler::pick(std::span<const Candidate> kept, double all, std::uint64_t draw) const {
    const double top = kept.front().logit;
    if (options_.top_p < 1) {
        if (options_.top_k > 0) {
            for (const Candidate& c : kept) all += std::exp(c.logit - top);
        }
        double sum = 0;
        std::size_t n = 0;
        while (n < kept.size() && (n == 0 || sum < options_.top_p * all))
            sum += std::exp(kept[n++].logit - top);
        kept = kept.first(n);
    }
    const double least = least_beside(top);
    while (kept.size() > 1 && kept.back().logit < least) kept = kept.first(kept.size() - 1);

    double total = 0;
    for (const Candidate& c : kept) total += std::exp((c.logit - top) / options_.temperature);
    double left = uniform(seed_, draw) * total;
    for (const Candidate& c : kept) {
        left -= std::exp((c.logit - top) / options_.temperature);
        if (left < 0) return c.token;
    }
    return kept.back().token;
}

std::int64_t Sampler::looks_at() const noexcept {
    if (options_.repeat_penalty != 1.0) return 0;
    return options_.greedy() ? 1 : options_.top_k;
}

std::int32_t Sampler::sample_top(std::span<const float> logits,
                                 std::span<const std::int32_t> tokens, std::uint64_t draw) {
    if (!(logits[0] < std::numeric_limits<float>::infinity())) throw_not_a_number(tokens[0]);
    if (logits[0] == -std::numeric_limits<float>::infinity()) throw_none();
    if (options_.greedy()) return tokens[0];
    const std::span<Candidate> kept = candidates_.span<Candidate>().first(logits.size());
    for (std::size_t i = 0; i < kept.size(); ++i)
        kept[i] = {static_cast<double>(logits[i]), tokens[i]};
    return pick(kept, 0, draw);
}

}  // namespace thimble
