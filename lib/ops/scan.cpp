// SPDX-License-Identifier: Apache-2.0
#include "ops/scan.h"

#include "ops/dispatch.h"

namespace thimble::ops {
namespace {

constexpr std::int64_t kCodeBytes = std::int64_t{128} << 10;  // of a piece: they stay near the core
constexpr std::int64_t kMostRows = 4096;                      // of a piece, whose scores do, too

// Pieces of whole rows, the same at any number of threads.
template <class Problem, class Kernel>
void scan(Team& team, const Problem& problem, std::int64_t row_bytes, Kernel kernel) {
    if (problem.rows == 0 || problem.n_queries == 0) return;
    const std::int64_t fit =
        std::max<std::int64_t>(1, kCodeBytes / std::max<std::int64_t>(1, row_bytes));
    const std::int64_t grain = std::min(kMostRows, (fit + 3) / 4 * 4);
    team.run(problem.rows, grain, [&](std::int64_t begin, std::int64_t end) {
        Problem piece = problem;
        piece.codes += begin * row_bytes;
        piece.rows = end - begin;
        piece.scores += begin;
        kernel(piece);
    });
}

}  // namespace

void scan_codes(Team& team, Isa isa, const ScanCodes& problem) {
    require(problem.code != VectorCode::kSign || problem.n_queries < 2 ||
                problem.query_stride >= padded_dims(problem.dims),
            "scan_codes", "rows of queries are not padded");
    scan(team, problem, vector_bytes(problem.code, problem.dims), kernels(isa).scan_codes);
}

void scan_signs(Team& team, Isa isa, const ScanSigns& problem) {
    scan(team, problem, vector_bytes(VectorCode::kSign, problem.dims), kernels(isa).scan_signs);
}

}  // namespace thimble::ops
