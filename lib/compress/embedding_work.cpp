// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "compress/embedding_state.h"
#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

std::uint64_t code_bytes(const StoreFacts& facts) {
    return static_cast<std::uint64_t>(facts.rows) *
           static_cast<std::uint64_t>(vector_bytes(facts.code, facts.dims));
}

}  // namespace

std::unique_ptr<PrincipalComponents> EmbeddingJob::State::train_components(
    const std::vector<std::int64_t>& without, VectorPasses& passes, Team& team, Isa isa) const {
    const std::int64_t rows = VectorSpace::usual_rows(calibration());
    VectorSpace space(
        {&calibration(), similarity, {train ? std::vector<std::int64_t>{} : without, false}, rows},
        passes, team, isa);
    return std::make_unique<PrincipalComponents>(
        input->dims(), rows,
        [&](const std::function<void(std::span<float>)>& fn) {
            space.each([&](std::span<float> x, std::span<const std::int64_t>) { fn(x); });
        },
        team, isa);
}

void EmbeddingJob::State::try_candidates(const PrincipalComponents* components,
                                         VectorPasses& passes, Team& team, Isa isa) {
    TrialSetting setting = trial_setting();
    setting.components = components;
    EmbeddingTrial trial(setting, candidates);
    const TrialResult result = trial.run(passes, team, isa);
    if (passes.stopped()) return;
    report.as_is = result.as_is;
    report.queries = queries ? queries->rows() : std::ssize(held_out);
    if (!options.frontier) {
        report.quality = result.candidates.front();
        return;
    }
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const StoreFacts f = facts(candidates[i]);
        FrontierPoint point;
        point.candidate = candidates[i];
        point.dims = f.dims;
        point.code_bytes = code_bytes(f);
        point.file_bytes = file_bytes(f);
        point.quality = result.candidates[i];
        if (candidates[i].kept > 0) point.explained = components->explained(candidates[i].kept);
        report.frontier.push_back(point);
    }
    choose();
}

// Marks what nothing of at most its size beats, and picks for the budget.
void EmbeddingJob::State::choose() {
    std::vector<FrontierPoint>& all = report.frontier;
    const auto better = [](const FrontierPoint& a, const FrontierPoint& b) {
        return std::pair(a.quality.ndcg, b.file_bytes) > std::pair(b.quality.ndcg, a.file_bytes);
    };
    for (FrontierPoint& point : all) {
        point.best = std::none_of(all.begin(), all.end(), [&](const FrontierPoint& other) {
            return other.file_bytes <= point.file_bytes && better(other, point);
        });
    }
    if (!budget) return;
    std::uint64_t least = UINT64_MAX;
    for (std::size_t i = 0; i < all.size(); ++i) {
        least = std::min(least, all[i].file_bytes);
        if (all[i].file_bytes > *budget) continue;
        if (!report.chosen || better(all[i], all[*report.chosen])) report.chosen = i;
    }
    if (!report.chosen) {
        throw Error(Exit::kUsage, "--budget",
                    "nothing that was tried is as small as " + format_bytes(*budget),
                    "the least is " + std::to_string(least) + " bytes");
    }
}

bool EmbeddingJob::State::write(const Candidate& candidate, const PrincipalComponents* components,
                                VectorPasses& passes, Team& team, Isa isa) {
    const StoreFacts f = report.facts = facts(candidate);
    const std::optional<StoreErrors> errors =
        write_store({.vectors = input.get(),
                     .calibration = &calibration(),
                     .components = f.projected ? components : nullptr,
                     .facts = f,
                     .path = options.output,
                     .file = file_options(f, true)},
                    passes, team, isa);
    if (!errors) return false;
    report.errors = *errors;
    report.code_bytes = code_bytes(f);
    report.file_bytes = file_bytes(f);
    if (f.projected) report.explained = components->explained(f.dims);
    return true;
}

bool EmbeddingJob::run(Team& team, Isa isa, const VectorProgress& progress) {
    State& s = *state_;
    VectorPasses passes(s.total_rows(), progress);
    std::unique_ptr<PrincipalComponents> components;
    if (s.projects()) components = s.train_components(s.held_out, passes, team, isa);
    if (passes.stopped()) return false;
    if (s.tries()) s.try_candidates(components.get(), passes, team, isa);
    if (passes.stopped()) return false;
    if (s.options.output.empty()) return true;
    Candidate candidate = s.candidates.front();
    if (s.report.chosen) {
        candidate = s.report.frontier[*s.report.chosen].candidate;
        // What was held out belongs to the store, and to its directions.
        if (candidate.kept > 0 && !s.train && !s.held_out.empty())
            components = s.train_components({}, passes, team, isa);
    }
    return !passes.stopped() && s.write(candidate, components.get(), passes, team, isa);
}

const EmbeddingReport& EmbeddingJob::report() const noexcept { return state_->report; }

}  // namespace thimble
