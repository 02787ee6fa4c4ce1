// SPDX-License-Identifier: Apache-2.0
// How well stored vectors are found: the best ten of each query against judgements, by nDCG@10
// ("Cumulated gain-based evaluation of IR techniques", 2002; gains are the relevances themselves,
// as trec_eval has them) and recall@10.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tensor/buffer.h"

namespace thimble {

inline constexpr std::int64_t kHits = 10;  // of each query

struct Hit {
    float score = 0;
    std::int64_t row = 0;
};

// The best of each query among the vectors offered, which come by rising row; of equal scores the
// lower row's.
class TopHits {
  public:
    explicit TopHits(std::int64_t queries);
    // score[i] is of row rows[i].
    void offer(std::int64_t query, std::span<const float> scores,
               std::span<const std::int64_t> rows) noexcept;
    [[nodiscard]] std::int64_t queries() const noexcept { return std::ssize(counts_); }
    [[nodiscard]] std::span<const Hit> of(std::int64_t query) const noexcept;  // best first
    [[nodiscard]] static std::uint64_t bytes(std::int64_t queries) noexcept;

  private:
    Buffer hits_;  // [queries, kHits]
    std::vector<std::uint8_t> counts_;
};

struct Judged {
    std::int64_t row = 0;
    double relevance = 0;
};
using Judgements = std::vector<std::vector<Judged>>;  // of each query, by row

// A line for each pair: query, document, and (optional) relevance, which is 1 otherwise; or as TREC
// has them: query, iteration, document, relevance. Tabs or spaces part them. Queries and documents
// are row numbers, from 0. Error(kBadData) naming the line.
[[nodiscard]] Judgements read_judgements(const std::string& path, std::int64_t queries,
                                         std::int64_t documents);
// The hits as judgements of relevance 1.
[[nodiscard]] Judgements judgements_of(const TopHits& hits);

struct RetrievalQuality {
    double ndcg = 0, recall = 0;  // means over the queries that have a relevant document
    std::int64_t queries = 0;     // how many those are
};
[[nodiscard]] RetrievalQuality quality_of(const TopHits& hits, const Judgements& judgements);

}  // namespace thimble
