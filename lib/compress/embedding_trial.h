// SPDX-License-Identifier: Apache-2.0
// Ways to store vectors, tried on queries: one pass over the vectors codes each piece in every way
// and scores it, so no store is written or held.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compress/retrieval.h"
#include "compress/vector_coder.h"
#include "compress/vector_space.h"

namespace thimble {

// A way to store: `kept` directions (0: no projection) in a code.
struct Candidate {
    VectorCode code = VectorCode::kF32;
    std::int64_t kept = 0;
};

struct TrialSetting {
    const VectorFile* vectors = nullptr;
    const VectorFile* queries = nullptr;      // null: the rows held out of `vectors`
    const VectorFile* calibration = nullptr;  // for int8; null: `vectors`
    std::vector<std::int64_t> held_out;
    const PrincipalComponents* components = nullptr;
    const Judgements* judgements = nullptr;  // null: the best ten of the vectors as they are
    Similarity similarity = Similarity::kCosine;
    int prescale = 0;
    bool hamming = false;  // signs meet signs of the query; else its numbers
};

struct TrialResult {
    RetrievalQuality as_is;                    // of the vectors in f32, not projected
    std::vector<RetrievalQuality> candidates;  // in their order
};

class EmbeddingTrial {
  public:
    EmbeddingTrial(TrialSetting setting, std::vector<Candidate> candidates);
    ~EmbeddingTrial();
    // Anything where `passes` was told to stop.
    [[nodiscard]] TrialResult run(VectorPasses& passes, Team& team, Isa isa);
    [[nodiscard]] std::int64_t passes_rows() const noexcept;  // that run() reads
    [[nodiscard]] std::uint64_t bytes() const noexcept;       // that run() holds at most

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// `count` rows spread evenly over `rows`.
[[nodiscard]] std::vector<std::int64_t> spread_rows(std::int64_t rows, std::int64_t count);

}  // namespace thimble
