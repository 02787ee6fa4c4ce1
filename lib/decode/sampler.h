// SPDX-License-Identifier: Apache-2.0
// Chooses the next token from one row of logits. Filters run in the order repeat penalty, top-k,
// top-p, min-p, temperature. The random number depends on (seed, draw) alone, so equal logits give
// equal text at any thread count.
#pragma once

#include <cstdint>
#include <span>

#include "core/options.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace thimble {

struct SamplerOptions {
    double temperature = 0.8;  // 0: the most likely token
    std::int64_t top_k = 40;   // 0: all
    double top_p = 0.95;       // 1: all
    double min_p = 0.05;       // 0: all
    double repeat_penalty = 1.0;
    std::int64_t repeat_last = 64;  // tokens that the penalty looks back
    void visit(OptionVisitor& v);
    [[nodiscard]] bool greedy() const noexcept { return temperature == 0; }
};

class Sampler {
  public:
    // `seed`: of the whole text.
    Sampler(const SamplerOptions& options, std::int64_t vocab, std::uint64_t seed);

    // logits: [1, vocab], F32 or F64; `recent`: the tokens so far, the last ones are penalised;
    // `draw`: number of this choice. Ties go to the lowest id. Error(kBadData) when no logit is
    // finite or one is NaN or +infinity.
    [[nodiscard]] std::int32_t sample(View logits, std::span<const std::int32_t> recent,
                                      std::uint64_t draw);

    // How many of the largest logits a choice depends on; 0: all of them.
    [[nodiscard]] std::int64_t looks_at() const noexcept;
    // The same choice from these alone: logits and tokens, largest first, equal ones by token, what
    // is no finite number before all.
    [[nodiscard]] std::int32_t sample_top(std::span<const float> logits,
                                          std::span<const std::int32_t> tokens, std::uint64_t draw);

    // What a Sampler charges to the ledger.
    [[nodiscard]] static std::size_t bytes(const SamplerOptions& options, std::int64_t vocab);

  private:
    struct Candidate {
        double logit;
        std::int32_t token;
    };
    // More likely first, then the lower id.
    static bool before(const Candidate& a, const Candidate& b) noexcept {
        return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
    }
    static std::int64_t slots(const SamplerOptions& options, std::int64_t vocab);
    [[nodiscard]] double least_beside(double top) const;
    // Chooses from what top-k leaves, in order; `all`: the sum that top-p is a part of.
    std::int32_t pick(std::span<const Candidate> kept, double all, std::uint64_t draw) const;
    template <class Real>
    std::span<Candidate> collect(const Real* logits, std::int64_t vocab, double least);
    template <class Real>
    std::int32_t choose(Real* logits, std::int64_t vocab, std::span<const std::int32_t> recent,
                        std::uint64_t draw);

    SamplerOptions options_;
    std::uint64_t seed_;
    Buffer candidates_;
};

}  // namespace thimble
