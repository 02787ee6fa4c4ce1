// SPDX-License-Identifier: Apache-2.0
#include "compress/embedding_trial.h"

#include <algorithm>

#include "ops/scan.h"

namespace thimble {
namespace {

constexpr std::int64_t kScoreBytes = std::int64_t{32} << 20;

std::size_t float_bytes(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(float);
}

}  // namespace

// Candidates by what is kept, since one projection serves all of them.
struct EmbeddingTrial::State {
    struct Way {
        Candidate candidate;
        std::size_t group = 0;  // index into kept
        Buffer adapted;         // queries of int8: [queries, stride]
        Buffer signs;           // queries of signs
        std::unique_ptr<VectorCoder> coder;
        std::unique_ptr<TopHits> hits;
    };
    TrialSetting setting;
    std::vector<Way> ways;
    std::vector<std::int64_t> kept;  // rising
    std::int64_t n_queries = 0, most_rows = 0;
    std::vector<Buffer> queries;  // of each group: [n_queries, stride]
    Buffer codes, scores;

    [[nodiscard]] std::int64_t dims(std::size_t group) const {
        return kept[group] > 0 ? kept[group] : setting.vectors->dims();
    }
    [[nodiscard]] std::int64_t stride(std::size_t group) const {
        return ops::padded_dims(dims(group));
    }
    [[nodiscard]] VectorSpace::Projection projection(bool of_queries) const {
        return {setting.components, kept, of_queries};
    }
    [[nodiscard]] bool needs_statistics() const {
        return std::any_of(ways.begin(), ways.end(),
                           [](const Way& way) { return way.candidate.code == VectorCode::kU8; });
    }
    [[nodiscard]] bool by_hamming(const Way& way) const {
        return setting.hamming && way.candidate.code == VectorCode::kSign;
    }
    void load_queries(VectorPasses& passes, Team& team, Isa isa);
    void make_coders(VectorPasses& passes, Team& team, Isa isa);
    void adapt_queries();
    void score(Way& way, std::span<const float> z, std::span<const std::int64_t> rows, Team& team,
               Isa isa);
};

EmbeddingTrial::EmbeddingTrial(TrialSetting setting, std::vector<Candidate> candidates)
    : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.setting = std::move(setting);
    candidates.push_back({VectorCode::kF32, 0});  // as they are: the last
    for (const Candidate& c : candidates) s.kept.push_back(c.kept);
    std::sort(s.kept.begin(), s.kept.end());
    s.kept.erase(std::unique(s.kept.begin(), s.kept.end()), s.kept.end());
    for (const Candidate& c : candidates) {
        State::Way way;
        way.candidate = c;
        way.group = static_cast<std::size_t>(
            std::lower_bound(s.kept.begin(), s.kept.end(), c.kept) - s.kept.begin());
        s.ways.push_back(std::move(way));
    }
    const TrialSetting& t = s.setting;
    s.n_queries = t.queries != nullptr ? t.queries->rows() : std::ssize(t.held_out);
    const std::int64_t fit = kScoreBytes / (4 * std::max<std::int64_t>(1, s.n_queries));
    s.most_rows = std::clamp<std::int64_t>(fit, 1, VectorSpace::usual_rows(*t.vectors));
}

EmbeddingTrial::~EmbeddingTrial() = default;

std::int64_t EmbeddingTrial::passes_rows() const noexcept {
    const State& s = *state_;
    const VectorFile& calibration =
        s.setting.calibration != nullptr ? *s.setting.calibration : *s.setting.vectors;
    return s.n_queries + s.setting.vectors->rows() +
           (s.needs_statistics() ? calibration.rows() : 0);
}

std::uint64_t EmbeddingTrial::bytes() const noexcept {
    const State& s = *state_;
    const auto held = [](std::int64_t count) { return Buffer::charged_bytes(float_bytes(count)); };
    std::uint64_t out =
        held(s.n_queries * s.most_rows) + held(s.most_rows * s.setting.vectors->dims()) +
        VectorSpace::bytes(s.setting.vectors->dims(), s.most_rows, s.kept.back(), true);
    for (std::size_t g = 0; g < s.kept.size(); ++g) out += held(s.n_queries * s.stride(g));
    for (const State::Way& way : s.ways) {
        out += TopHits::bytes(s.n_queries);
        if (way.candidate.code == VectorCode::kU8) out += held(s.n_queries * s.stride(way.group));
    }
    return out;
}

void EmbeddingTrial::State::load_queries(VectorPasses& passes, Team& team, Isa isa) {
    for (std::size_t g = 0; g < kept.size(); ++g)
        queries.emplace_back(float_bytes(n_queries * stride(g)), Purpose::kOther);
    SpaceSetting of = {setting.queries, setting.similarity, {}, most_rows};
    if (of.file == nullptr) of.file = setting.vectors, of.rows = {setting.held_out, true};
    VectorSpace space(of, passes, team, isa);
    std::vector<std::int64_t> done(kept.size());
    space.each(projection(true),
               [&](std::size_t g, std::span<float> z, std::span<const std::int64_t> rows) {
                   std::copy(z.begin(), z.end(), queries[g].as<float>() + done[g] * stride(g));
                   done[g] += std::ssize(rows);
               });
}

void EmbeddingTrial::State::make_coders(VectorPasses& passes, Team& team, Isa isa) {
    std::vector<VectorStatistics> statistics(kept.size());
    if (needs_statistics()) {
        SpaceSetting of = {setting.calibration, setting.similarity, {}, most_rows};
        if (of.file == nullptr) of.file = setting.vectors, of.rows = {setting.held_out, false};
        VectorSpace space(of, passes, team, isa);
        space.each(projection(false),
                   [&](std::size_t g, std::span<float> z, std::span<const std::int64_t> rows) {
                       for (std::size_t r = 0; r < rows.size(); ++r) {
                           statistics[g].add(z.subspan(r * static_cast<std::size_t>(stride(g)),
                                                       static_cast<std::size_t>(dims(g))));
                       }
                   });
    }
    for (Way& way : ways) {
        VectorStatistics& of_group = statistics[way.group];
        if (of_group.rows == 0)
            of_group.add(std::vector<float>(static_cast<std::size_t>(dims(way.group))));
        way.coder = std::make_unique<VectorCoder>(way.candidate.code, setting.prescale, of_group);
        way.hits = std::make_unique<TopHits>(n_queries);
    }
}

void EmbeddingTrial::State::adapt_queries() {
    for (Way& way : ways) {
        const std::int64_t width = stride(way.group);
        const float* const from = queries[way.group].as<float>();
        if (way.candidate.code == VectorCode::kU8) {
            way.adapted = Buffer(float_bytes(n_queries * width), Purpose::kOther);
            std::fill_n(way.adapted.as<float>(), n_queries * width, 0.0f);
            for (std::int64_t q = 0; q < n_queries; ++q)
                way.coder->adapt(from + q * width, way.adapted.as<float>() + q * width);
        } else if (by_hamming(way)) {
            const std::int64_t bytes = way.coder->bytes();
            way.signs = Buffer(static_cast<std::size_t>(n_queries * bytes), Purpose::kOther);
            for (std::int64_t q = 0; q < n_queries; ++q)
                way.coder->encode(from + q * width, way.signs.as<std::uint8_t>() + q * bytes);
        }
    }
}

void EmbeddingTrial::State::score(Way& way, std::span<const float> z,
                                  std::span<const std::int64_t> rows, Team& team, Isa isa) {
    const std::int64_t n = std::ssize(rows), width = stride(way.group), bytes = way.coder->bytes();
    auto* const to = codes.as<std::uint8_t>();
    team.run(n, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
            way.coder->encode(z.data() + r * width, to + r * bytes);
    });
    float* const score = scores.as<float>();
    if (by_hamming(way)) {
        ops::scan_signs(team, isa,
                        {.codes = to,
                         .rows = n,
                         .dims = dims(way.group),
                         .queries = way.signs.as<std::uint8_t>(),
                         .n_queries = n_queries,
                         .scores = score,
                         .score_stride = n});
    } else {
        const Buffer& of = way.adapted ? way.adapted : queries[way.group];
        ops::scan_codes(team, isa,
                        {.code = way.candidate.code,
                         .codes = to,
                         .rows = n,
                         .dims = dims(way.group),
                         .queries = of.as<float>(),
                         .n_queries = n_queries,
                         .query_stride = width,
                         .scores = score,
                         .score_stride = n});
    }
    team.run(n_queries, 8, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t q = begin; q < end; ++q)
            way.hits->offer(q, {score + q * n, static_cast<std::size_t>(n)}, rows);
    });
}

TrialResult EmbeddingTrial::run(VectorPasses& passes, Team& team, Isa isa) {
    State& s = *state_;
    s.load_queries(passes, team, isa);
    s.make_coders(passes, team, isa);
    s.adapt_queries();
    s.codes = Buffer(float_bytes(s.most_rows * s.setting.vectors->dims()), Purpose::kIo);
    s.scores = Buffer(float_bytes(s.n_queries * s.most_rows), Purpose::kOther);
    {
        VectorSpace space(
            {s.setting.vectors, s.setting.similarity, {s.setting.held_out, false}, s.most_rows},
            passes, team, isa);
        space.each(s.projection(false),
                   [&](std::size_t g, std::span<float> z, std::span<const std::int64_t> rows) {
                       for (State::Way& way : s.ways)
                           if (way.group == g) s.score(way, z, rows, team, isa);
                   });
    }
    TrialResult out;
    if (passes.stopped()) return out;
    const Judgements own =
        s.setting.judgements != nullptr ? Judgements{} : judgements_of(*s.ways.back().hits);
    const Judgements& judged = s.setting.judgements != nullptr ? *s.setting.judgements : own;
    for (const State::Way& way : s.ways) out.candidates.push_back(quality_of(*way.hits, judged));
    out.as_is = out.candidates.back();
    out.candidates.pop_back();
    return out;
}

std::vector<std::int64_t> spread_rows(std::int64_t rows, std::int64_t count) {
    std::vector<std::int64_t> out;
    for (std::int64_t i = 0; i < count; ++i) {
        // i * rows / count, without a product that could wrap.
        out.push_back(rows / count * i + rows % count * i / count);
    }
    return out;
}

}  // namespace thimble
