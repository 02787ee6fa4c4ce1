// SPDX-License-Identifier: Apache-2.0
// What an EmbeddingJob knows: what was asked for (embeddings.cpp) and what came of it
// (embedding_work.cpp).
#pragma once

#include "compress/embeddings.h"
#include "core/ledger.h"
#include "io/safetensors_writer.h"

namespace thimble {

struct EmbeddingJob::State {
    EmbeddingOptions options;
    std::string version;
    std::unique_ptr<VectorFile> input, train, queries;
    std::vector<Candidate> candidates;  // one, unless it is a frontier
    Judgements judgements;
    Charge judgement_memory;
    std::vector<std::int64_t> held_out;
    std::optional<std::uint64_t> budget;
    Similarity similarity = Similarity::kCosine;
    EmbeddingReport report;

    void open();
    void choose_candidates();
    void open_queries();
    [[nodiscard]] StoreFacts facts(const Candidate& candidate) const;
    [[nodiscard]] SafetensorsOptions file_options(const StoreFacts& facts, bool hash) const;
    [[nodiscard]] std::uint64_t file_bytes(const StoreFacts& facts) const;
    [[nodiscard]] const VectorFile& calibration() const { return train ? *train : *input; }
    [[nodiscard]] TrialSetting trial_setting() const;
    [[nodiscard]] bool tries() const { return options.frontier || queries; }
    [[nodiscard]] bool projects() const {
        return std::any_of(candidates.begin(), candidates.end(),
                           [](const Candidate& c) { return c.kept > 0; });
    }
    [[nodiscard]] std::int64_t total_rows() const;

    [[nodiscard]] std::unique_ptr<PrincipalComponents> train_components(
        const std::vector<std::int64_t>& without, VectorPasses& passes, Team& team, Isa isa) const;
    void try_candidates(const PrincipalComponents* components, VectorPasses& passes, Team& team,
                        Isa isa);
    void choose();
    [[nodiscard]] bool write(const Candidate& candidate, const PrincipalComponents* components,
                             VectorPasses& passes, Team& team, Isa isa);
};

}  // namespace thimble
