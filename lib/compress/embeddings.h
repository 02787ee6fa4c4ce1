// SPDX-License-Identifier: Apache-2.0
// compress embeddings: a file of vectors as a store of few bytes (compress/embedding_store.h has
// its format), what that costs in quality, and which way to store is best for its bytes.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compress/embedding_store.h"
#include "compress/embedding_trial.h"
#include "compress/store_writer.h"
#include "core/options.h"
#include "core/plan.h"

namespace thimble {

struct EmbeddingOptions {
    std::string input, output, tensor, format, pca, train, queries, judgements, budget;
    std::string similarity = "cosine", binary_scores = "asymmetric";
    std::int64_t prescale = 0, held_out = 500;
    bool overwrite = false, decompress = false, frontier = false;
    void visit(OptionVisitor& v);
};

// One way to store all vectors, and what it is worth.
struct FrontierPoint {
    Candidate candidate;
    std::int64_t dims = 0;
    std::uint64_t code_bytes = 0, file_bytes = 0;
    RetrievalQuality quality;
    double explained = 1;  // part of the variance
    bool best = false;     // nothing of at most its size is better
};

struct EmbeddingReport {
    StoreFacts facts;
    std::uint64_t input_bytes = 0, code_bytes = 0, file_bytes = 0;
    StoreErrors errors;
    double explained = 1;
    std::optional<RetrievalQuality> as_is, quality;
    std::vector<FrontierPoint> frontier;  // as_is is set, too
    std::optional<std::size_t> chosen;    // by the budget
    std::int64_t queries = 0;
};

class EmbeddingJob {
  public:
    // Reads headers only.
    EmbeddingJob(const EmbeddingOptions& options, std::string version);
    ~EmbeddingJob();
    [[nodiscard]] Plan plan();
    // False when `progress` stopped it; then there is no output.
    [[nodiscard]] bool run(Team& team, Isa isa, const VectorProgress& progress);
    [[nodiscard]] const EmbeddingReport& report() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// A store back to a .npy file of float32.
class RestoreJob {
  public:
    explicit RestoreJob(const EmbeddingOptions& options);
    ~RestoreJob();
    [[nodiscard]] Plan plan();
    [[nodiscard]] bool run(Team& team, const VectorProgress& progress);
    [[nodiscard]] const StoreFacts& facts() const noexcept;
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
