// SPDX-License-Identifier: Apache-2.0
// Scores of coded vectors on every level: what the codes' numbers say in double precision, and the
// same bits whatever else is scored with them.
#include <doctest/doctest.h>

#include <cmath>

#include "harness.h"
#include "ops/scan.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr VectorCode kCodes[] = {VectorCode::kF32,  VectorCode::kF16, VectorCode::kE4m3,
                                 VectorCode::kE5m2, VectorCode::kU8,  VectorCode::kE2m1,
                                 VectorCode::kSign};

// Codes of random bytes that are all finite, what is left of a vector's last byte zero.
std::vector<std::uint8_t> random_codes(VectorCode code, std::int64_t rows, std::int64_t dims,
                                       Random& random) {
    const std::int64_t bytes = vector_bytes(code, dims);
    std::vector<std::uint8_t> out(static_cast<std::size_t>(rows * bytes));
    for (auto& b : out) b = static_cast<std::uint8_t>(random.unit() * 256);
    for (std::int64_t r = 0; r < rows; ++r) {
        std::uint8_t* const row = out.data() + r * bytes;
        for (std::int64_t k = 0; k < dims; ++k) {
            if (code == VectorCode::kF32) {
                const float x = random.normal();
                std::memcpy(row + 4 * k, &x, sizeof x);
            } else if (code == VectorCode::kF16) {
                const std::uint16_t h = f32_to_f16(random.normal());
                std::memcpy(row + 2 * k, &h, sizeof h);
            } else if (code == VectorCode::kE4m3 || code == VectorCode::kE5m2) {
                if (!std::isfinite(vector_value(code, row, k)) || e4m3_is_nan(row[k])) row[k] = 0;
            }
        }
        const std::int64_t used = dims * bits_of(code) % 8;
        if (code == VectorCode::kE2m1 && used != 0) row[bytes - 1] &= 15;
        if (code == VectorCode::kSign && used != 0)
            row[bytes - 1] &= static_cast<std::uint8_t>(0xff00 >> used);
    }
    return out;
}

struct Problem {
    Problem(VectorCode of, std::int64_t n_rows, std::int64_t n_dims, std::int64_t n_queries)
        : code(of), rows(n_rows), dims(n_dims), count(n_queries) {
        Random random(static_cast<std::uint64_t>(7 + dims));
        codes = random_codes(code, rows, dims, random);
        queries.assign(static_cast<std::size_t>(count * ops::padded_dims(dims)), 0.0f);
        for (std::int64_t q = 0; q < count; ++q)
            for (std::int64_t k = 0; k < dims; ++k)
                queries[static_cast<std::size_t>(q * ops::padded_dims(dims) + k)] = random.normal();
    }
    [[nodiscard]] std::vector<float> scores(Isa isa, int threads, std::int64_t first,
                                            std::int64_t n) const {
        std::vector<float> out(static_cast<std::size_t>(n * rows), std::nanf(""));
        Team team(threads);
        ops::scan_codes(team, isa,
                        {.code = code,
                         .codes = codes.data(),
                         .rows = rows,
                         .dims = dims,
                         .queries = queries.data() + first * ops::padded_dims(dims),
                         .n_queries = n,
                         .query_stride = ops::padded_dims(dims),
                         .scores = out.data(),
                         .score_stride = rows});
        return out;
    }
    VectorCode code;
    std::int64_t rows, dims, count;
    std::vector<std::uint8_t> codes;
    std::vector<float> queries;
};

}  // namespace

TEST_CASE("scan: scores are the products of what the codes stand for") {
    for (const VectorCode code : kCodes) {
        for (const std::int64_t dims : {1, 3, 8, 15, 16, 17, 40, 100, 384}) {
            const Problem p(code, 23, dims, 7);
            for (const Isa isa : levels()) {
                CAPTURE(static_cast<int>(code));
                CAPTURE(dims);
                CAPTURE(name(isa));
                const std::vector<float> scores = p.scores(isa, 2, 0, p.count);
                for (std::int64_t q = 0; q < p.count; ++q) {
                    for (std::int64_t r = 0; r < p.rows; ++r) {
                        double sum = 0, size = 0;
                        for (std::int64_t k = 0; k < dims; ++k) {
                            const double a =
                                p.queries[static_cast<std::size_t>(q * ops::padded_dims(dims) + k)];
                            const double b = vector_value(
                                code, p.codes.data() + r * vector_bytes(code, dims), k);
                            sum += a * b, size += std::abs(a * b);
                        }
                        const double score = scores[static_cast<std::size_t>(q * p.rows + r)];
                        // Each lane adds dims / 4 terms at most, then the lanes.
                        const double bound = kEpsilon * size * (static_cast<double>(dims) / 4 + 8);
                        CHECK(std::abs(score - sum) <= bound);
                    }
                }
            }
        }
    }
}

TEST_CASE("scan: a score's bits depend on neither threads nor other queries") {
    for (const VectorCode code : kCodes) {
        const Problem p(code, 4111, 52, 9);
        for (const Isa isa : levels()) {
            const std::vector<float> all = p.scores(isa, 1, 0, p.count);
            CHECK(all == p.scores(isa, 3, 0, p.count));
            const std::vector<float> one = p.scores(isa, 2, 5, 1);
            CHECK(std::equal(one.begin(), one.end(), all.begin() + 5 * p.rows));
        }
    }
}

TEST_CASE("scan: signs against signs are the product of both, exactly") {
    for (const std::int64_t dims : {1, 7, 8, 63, 64, 65, 384, 1001}) {
        const Problem p(VectorCode::kSign, 37, dims, 5);
        const std::int64_t bytes = vector_bytes(VectorCode::kSign, dims);
        Random random(3);
        const auto queries = random_codes(VectorCode::kSign, p.count, dims, random);
        for (const Isa isa : levels()) {
            std::vector<float> scores(static_cast<std::size_t>(p.count * p.rows));
            Team team(2);
            ops::scan_signs(team, isa,
                            {.codes = p.codes.data(),
                             .rows = p.rows,
                             .dims = dims,
                             .queries = queries.data(),
                             .n_queries = p.count,
                             .scores = scores.data(),
                             .score_stride = p.rows});
            for (std::int64_t q = 0; q < p.count; ++q) {
                for (std::int64_t r = 0; r < p.rows; ++r) {
                    float sum = 0;
                    for (std::int64_t k = 0; k < dims; ++k) {
                        sum += vector_value(VectorCode::kSign, queries.data() + q * bytes, k) *
                               vector_value(VectorCode::kSign, p.codes.data() + r * bytes, k);
                    }
                    CHECK(scores[static_cast<std::size_t>(q * p.rows + r)] == sum);
                }
            }
        }
    }
}
