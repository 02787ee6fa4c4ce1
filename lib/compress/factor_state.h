// SPDX-License-Identifier: Apache-2.0
// What a FactorJob knows, shared by its parts: factor_job.cpp plans, factor_work.cpp works.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "calib/factor_matrix.h"
#include "calib/input_tap.h"
#include "compress/factor_job.h"
#include "compress/factor_writer.h"
#include "compress/rank_choice.h"
#include "model/runner.h"

namespace thimble {

// A matrix that may become factors.
struct FactorCandidate {
    const SourceTensor* tensor = nullptr;
    SharedFormat format;
    RankChoices choices;
    std::size_t chosen = 0;

    [[nodiscard]] Shape2 shape() const { return {tensor->rows(), tensor->cols()}; }
    // The largest rank that saves anything; 0: none does.
    [[nodiscard]] std::int64_t most() const { return choices.size() > 1 ? choices[1].rank : 0; }
};

struct FactorJob::State {
    State(const FactorOptions& o, std::string_view v);

    FactorOptions options;
    std::string version;
    std::unique_ptr<ModelSource> source;
    std::optional<eval::CheckedTexts> texts;
    std::vector<std::string> inputs;  // files
    std::vector<FactorCandidate> candidates;
    std::uint64_t bytes_now = 0;  // of the candidates
    RunnerOptions looking, checking;
    std::vector<FactorReport> reports;
    std::optional<eval::Quality> quality;
    std::uint64_t output_bytes = 0;

    [[nodiscard]] bool looks() const { return options.weighting != "none"; }
    [[nodiscard]] InputSums sums() const {
        return {options.weighting == "diagonal", options.weighting == "full"};
    }
    [[nodiscard]] std::uint64_t bytes_wanted() const {
        return static_cast<std::uint64_t>(options.ratio * static_cast<double>(bytes_now));
    }
    [[nodiscard]] std::vector<RankChoices> all_choices() const;
    void check_options() const;
    void find_candidates();
    void add(const SourceTensor& tensor);
    void choose();
    [[nodiscard]] FactorChoices choices() const;
    [[nodiscard]] Metadata metadata(const FactorWriter& writer, bool hash_inputs) const;
    [[nodiscard]] std::vector<TensorSpec> scratch_specs() const;
    [[nodiscard]] std::uint64_t scratch_bytes() const;
    [[nodiscard]] std::uint64_t predicted_bytes();
    [[nodiscard]] Plan plan_learning(int threads) const;
    [[nodiscard]] Plan plan_checking() const;

    void learn(Team& team, Isa isa, const std::string& scratch, const Progress& progress);
    void factor_layer(std::int64_t layer, const UnitSpec& unit, const InputTap* tap, Team& team,
                      TensorWriter& out);
    void factor(FactorCandidate& candidate, const InputNorm& norm, std::size_t place,
                TensorWriter& out, std::mutex& writing) const;
    void write(const std::string& scratch, const std::string& path, Isa isa,
               const Progress& progress);
    void check(const std::string& path, Team& team, const Progress& progress);
};

}  // namespace thimble
