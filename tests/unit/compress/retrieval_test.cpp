// SPDX-License-Identifier: Apache-2.0
// nDCG and recall by hand, the best ten by sorting all, and judgements as people write them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "compress/embedding_trial.h"
#include "compress/retrieval.h"
#include "core/error.h"
#include "kernels/layout/rng.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

TopHits hits_of(const std::vector<std::int64_t>& rows) {
    TopHits hits(1);
    std::vector<std::int64_t> rising = rows;
    std::sort(rising.begin(), rising.end());
    for (const std::int64_t row : rising) {
        const auto place = std::find(rows.begin(), rows.end(), row) - rows.begin();
        const float score = -static_cast<float>(place);
        hits.offer(0, {&score, 1}, {&row, 1});
    }
    return hits;
}

}  // namespace

TEST_CASE("retrieval: nDCG and recall as counted by hand") {
    // Found: 3 (relevance 2), 8 (none), 5 (1), 9 (not relevant, judged 0); relevant and not
    // found: 1.
    const TopHits hits = hits_of({3, 8, 5, 9});
    const Judgements judged = {{{1, 3}, {3, 2}, {5, 1}, {9, 0}}};
    const double gained = 2 / std::log2(2.0) + 1 / std::log2(4.0);
    const double ideal = 3 / std::log2(2.0) + 2 / std::log2(3.0) + 1 / std::log2(4.0);
    const RetrievalQuality q = quality_of(hits, judged);
    CHECK(q.ndcg == doctest::Approx(gained / ideal).epsilon(1e-12));
    CHECK(q.recall == doctest::Approx(2.0 / 3).epsilon(1e-12));
    CHECK(q.queries == 1);
    const RetrievalQuality perfect = quality_of(hits_of({1, 3, 5, 0}), judged);
    CHECK(perfect.ndcg == doctest::Approx(1).epsilon(1e-12));
    CHECK(perfect.recall == 1);
}

TEST_CASE(
    "retrieval: more relevant ones than ten places cannot spoil nDCG; queries without count for "
    "nothing") {
    std::vector<std::int64_t> ten(10);
    Judgements judged(2);
    for (std::int64_t i = 0; i < 20; ++i) judged[0].push_back({i, 1});
    for (std::size_t i = 0; i < 10; ++i) ten[i] = static_cast<std::int64_t>(i);
    TopHits hits(2);
    std::vector<float> scores(20);
    std::vector<std::int64_t> rows(20);
    for (std::size_t i = 0; i < 20; ++i) scores[i] = 1, rows[i] = static_cast<std::int64_t>(i);
    hits.offer(0, scores, rows), hits.offer(1, scores, rows);
    const RetrievalQuality q = quality_of(hits, judged);
    CHECK(q.queries == 1);
    CHECK(q.ndcg == doctest::Approx(1));
    CHECK(q.recall == doctest::Approx(0.5));
}

TEST_CASE("retrieval: the best ten are those of a full sort, of equals the lower row") {
    std::vector<float> scores;
    std::vector<std::int64_t> rows;
    for (std::uint64_t i = 0; i < 3000; ++i) {
        scores.push_back(static_cast<float>(philox(4, i).v[0] % 500));  // many equal
        rows.push_back(static_cast<std::int64_t>(3 * i));
    }
    TopHits hits(3);
    for (std::size_t at = 0; at < scores.size(); at += 128) {
        const std::size_t n = std::min<std::size_t>(128, scores.size() - at);
        hits.offer(1, std::span(scores).subspan(at, n), std::span(rows).subspan(at, n));
    }
    std::vector<std::size_t> order(scores.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    REQUIRE(hits.of(1).size() == 10);
    for (std::size_t i = 0; i < 10; ++i) CHECK(hits.of(1)[i].row == rows[order[i]]);
    CHECK(hits.of(0).empty());
}

TEST_CASE("retrieval: judgements in two, three or four words; what is wrong is named by its line") {
    const TemporaryDirectory directory;
    const auto read = [&](const std::string& text) {
        return read_judgements(directory.write("qrels", text), 3, 100);
    };
    const Judgements judged = read("0\t7\n0 5 2\n\n2 0 99 1\n1\t4\t0.5\r\n");
    REQUIRE(judged[0].size() == 2);
    CHECK(judged[0][0].row == 5);
    CHECK(judged[0][0].relevance == 2);
    CHECK(judged[0][1].relevance == 1);
    CHECK(judged[2][0].row == 99);
    CHECK(judged[1][0].relevance == 0.5);
    for (const auto& [text, says] : {std::pair{"0\n", "line 1"},
                                     {"0 1\n3 1\n", "line 2"},
                                     {"0 100\n", "row of a document"},
                                     {"-1 0\n", "row of a query"},
                                     {"0 1 nan\n", "relevance"},
                                     {"0 1 1 1 1\n", "5 words"},
                                     {"q1 d1 1\n", "by their rows"},
                                     {"0 1\n0 1\n", "twice"},
                                     {"0 1x\n", "'1x'"}}) {
        try {
            (void)read(text);
            FAIL(text << " was taken");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kBadData);
            CAPTURE(e.what());
            CHECK(std::string(e.what()).find(says) != std::string::npos);
        }
    }
}

TEST_CASE("retrieval: rows held out are spread, and each another") {
    for (const auto& [rows, count] :
         {std::pair<std::int64_t, std::int64_t>{10, 3}, {1000, 999}, {7, 1}}) {
        const std::vector<std::int64_t> out = spread_rows(rows, count);
        CHECK(std::ssize(out) == count);
        for (std::size_t i = 1; i < out.size(); ++i) CHECK(out[i] > out[i - 1]);
        CHECK(out.front() == 0);
        CHECK(out.back() < rows);
    }
}
