// SPDX-License-Identifier: Apache-2.0
#include "compress/retrieval.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/ledger.h"
#include "io/lines.h"

namespace thimble {
namespace {

constexpr std::int64_t kMostPairs = std::int64_t{1} << 24;

std::vector<std::string_view> words_of(std::string_view line) {
    constexpr std::string_view kGaps = " \t\r";
    std::vector<std::string_view> out;
    for (std::size_t at = 0; (at = line.find_first_not_of(kGaps, at)) != line.npos;) {
        const std::size_t end = std::min(line.find_first_of(kGaps, at), line.size());
        out.push_back(line.substr(at, end - at));
        at = end;
    }
    return out;
}

template <class Number>
Number number(std::string_view word, Number least, Number most, const std::string& where,
              const char* what) {
    Number value{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc{} || end != word.data() + word.size() ||
        !(value >= least && value <= most)) {
        throw Error(Exit::kBadData, where, "'" + escaped(word) + "' is no " + what,
                    std::string(what).starts_with("row")
                        ? "queries and documents are named by their rows, from 0"
                        : "");
    }
    return value;
}

double discount(std::size_t rank) { return 1 / std::log2(static_cast<double>(rank) + 2); }

double relevance_of(const std::vector<Judged>& judged, std::int64_t row) {
    const auto at = std::lower_bound(judged.begin(), judged.end(), row,
                                     [](const Judged& j, std::int64_t r) { return j.row < r; });
    return at != judged.end() && at->row == row ? std::max(at->relevance, 0.0) : 0;
}

}  // namespace

TopHits::TopHits(std::int64_t queries)
    : hits_(static_cast<std::size_t>(queries * kHits) * sizeof(Hit), Purpose::kOther),
      counts_(static_cast<std::size_t>(queries)) {}

std::uint64_t TopHits::bytes(std::int64_t queries) noexcept {
    return Buffer::charged_bytes(static_cast<std::size_t>(queries * kHits) * sizeof(Hit));
}

void TopHits::offer(std::int64_t query, std::span<const float> scores,
                    std::span<const std::int64_t> rows) noexcept {
    Hit* const hits = hits_.as<Hit>() + query * kHits;
    std::uint8_t& count = counts_[static_cast<std::size_t>(query)];
    for (std::size_t i = 0; i < scores.size(); ++i) {
        if (count == kHits && !(scores[i] > hits[kHits - 1].score)) continue;
        std::int64_t at = count < kHits ? count++ : kHits - 1;
        for (; at > 0 && scores[i] > hits[at - 1].score; --at) hits[at] = hits[at - 1];
        hits[at] = {scores[i], rows[i]};
    }
}

std::span<const Hit> TopHits::of(std::int64_t query) const noexcept {
    return {hits_.as<Hit>() + query * kHits, counts_[static_cast<std::size_t>(query)]};
}

Judgements read_judgements(const std::string& path, std::int64_t queries, std::int64_t documents) {
    Judgements out(static_cast<std::size_t>(queries));
    LineReader lines(path);
    std::string line;
    std::int64_t pairs = 0;
    while (lines.next(line)) {
        const std::vector<std::string_view> words = words_of(line);
        if (words.empty()) continue;
        if (words.size() < 2 || words.size() > 4) {
            throw Error(Exit::kBadData, lines.where(),
                        "expected query, document and relevance, found " +
                            std::to_string(words.size()) + " words");
        }
        if (++pairs > kMostPairs)
            throw Error(Exit::kBadData, lines.where(), "more than 2^24 pairs");
        const std::string where = lines.where();
        const auto query = number<std::int64_t>(words[0], 0, queries - 1, where, "row of a query");
        const auto document = number<std::int64_t>(words[words.size() == 4 ? 2 : 1], 0,
                                                   documents - 1, where, "row of a document");
        const double relevance =
            words.size() > 2 ? number<double>(words.back(), -1e6, 1e6, where, "relevance") : 1;
        out[static_cast<std::size_t>(query)].push_back({document, relevance});
    }
    for (std::size_t q = 0; q < out.size(); ++q) {
        const auto by_row = [](const Judged& a, const Judged& b) { return a.row < b.row; };
        std::stable_sort(out[q].begin(), out[q].end(), by_row);
        const auto twice =
            std::adjacent_find(out[q].begin(), out[q].end(),
                               [](const Judged& a, const Judged& b) { return a.row == b.row; });
        if (twice != out[q].end()) {
            throw Error(Exit::kBadData, escaped(path, 1024),
                        "judges query " + std::to_string(q) + " and document " +
                            std::to_string(twice->row) + " twice");
        }
    }
    return out;
}

Judgements judgements_of(const TopHits& hits) {
    Judgements out(static_cast<std::size_t>(hits.queries()));
    for (std::int64_t q = 0; q < hits.queries(); ++q) {
        std::vector<Judged>& judged = out[static_cast<std::size_t>(q)];
        for (const Hit& hit : hits.of(q)) judged.push_back({hit.row, 1});
        std::sort(judged.begin(), judged.end(),
                  [](const Judged& a, const Judged& b) { return a.row < b.row; });
    }
    return out;
}

RetrievalQuality quality_of(const TopHits& hits, const Judgements& judgements) {
    RetrievalQuality out;
    for (std::int64_t q = 0; q < hits.queries(); ++q) {
        const std::vector<Judged>& judged = judgements[static_cast<std::size_t>(q)];
        std::vector<double> ideal;
        for (const Judged& j : judged)
            if (j.relevance > 0) ideal.push_back(j.relevance);
        if (ideal.empty()) continue;
        std::sort(ideal.rbegin(), ideal.rend());
        double best = 0, gained = 0, found = 0;
        for (std::size_t i = 0; i < ideal.size() && i < kHits; ++i) best += ideal[i] * discount(i);
        const std::span<const Hit> of_query = hits.of(q);
        for (std::size_t i = 0; i < of_query.size(); ++i) {
            const double relevance = relevance_of(judged, of_query[i].row);
            gained += relevance * discount(i);
            found += relevance > 0 ? 1 : 0;
        }
        out.ndcg += gained / best;
        out.recall += found / static_cast<double>(ideal.size());
        ++out.queries;
    }
    if (out.queries > 0) {
        out.ndcg /= static_cast<double>(out.queries);
        out.recall /= static_cast<double>(out.queries);
    }
    return out;
}

}  // namespace thimble
