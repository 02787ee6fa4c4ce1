// SPDX-License-Identifier: Apache-2.0
// What one row of logits says about the token that followed it, and the figures made from many
// rows: perplexity, and against a reference model's rows KL divergence, agreement of the best token
// and change of the true token's probability. All arithmetic is in double; a row's scores depend on
// that row only, and rows are added in text order, so results do not depend on the thread count.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "eval/moments.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace thimble::eval {

// Natural logarithms throughout.
struct RowScore {
    double nll = 0;            // -log p(target)
    double log_sum_exp = 0;    // of the row
    std::int32_t top = 0;      // most likely token, the lowest id on ties
    double reference_nll = 0;  // the same of the reference's row; 0 without one
    double kld = 0;            // sum of p_ref * log(p_ref / p)
    bool same_top = true;
};

// `logits`: [1, vocab], F32 or F64. Non-finite logits give a non-finite nll.
[[nodiscard]] RowScore score_row(View logits, std::int32_t target);
[[nodiscard]] RowScore score_row(View logits, View reference, std::int32_t target);

struct PerplexityFigures {
    std::int64_t tokens = 0;  // scored
    Estimate nll;             // nats per token
    Estimate perplexity;
};
struct DivergenceFigures {
    Estimate reference_perplexity;
    Estimate kld;
    double kld_median = 0, kld_p99 = 0, kld_p999 = 0, kld_max = 0;
    Estimate same_top;      // fraction of rows
    Estimate mean_delta_p;  // of the true token, p - p_ref
    Estimate rms_delta_p;
    Estimate perplexity_ratio;   // perplexity / reference perplexity, paired
    Estimate perplexity_change;  // perplexity - reference perplexity, paired
};

// Adds rows in text order. `capacity` rows of the divergence are kept for the percentiles.
class ScoreSums {
  public:
    ScoreSums(std::int64_t capacity, bool with_reference);
    void add(const RowScore& row);
    [[nodiscard]] PerplexityFigures perplexity() const;
    [[nodiscard]] DivergenceFigures divergence();  // only with a reference; sorts what is kept
    // What an instance is charged for.
    [[nodiscard]] static std::uint64_t charged_bytes(std::int64_t capacity, bool with_reference);

  private:
    Moments nll_, reference_nll_, nll_change_, kld_, same_top_, delta_p_, delta_p_squared_;
    Buffer klds_;  // f64 [capacity]
};

// Value at `fraction` of the way through sorted values, linear between neighbours.
[[nodiscard]] double percentile(std::span<const double> sorted, double fraction);

// The column of the largest of one row of logits; of equal ones the first.
[[nodiscard]] std::int32_t most_likely(View logits);

}  // namespace thimble::eval
