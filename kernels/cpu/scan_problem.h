// SPDX-License-Identifier: Apache-2.0
// Scores of stored vectors as problems.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout/vector_code.h"

namespace thimble::cpu {

// A query may be read up to a multiple of this: zeros for signs, anything finite for other codes.
inline constexpr std::int64_t kScanPadding = 16;

// scores[q][r] = sum over k of queries[q][k] * value(codes[r][k]). Codes of e4m3 are no NaN.
struct ScanCodes {
    VectorCode code;
    const std::uint8_t* codes;  // [rows, vector_bytes(code, dims)]
    std::int64_t rows, dims;
    const float* queries;  // [queries, dims]
    std::int64_t n_queries, query_stride;
    float* scores;  // [queries, rows]
    std::int64_t score_stride;
};

// The same of signs with signs: dims - 2 * (bits that differ).
struct ScanSigns {
    const std::uint8_t* codes;  // [rows, vector_bytes(kSign, dims)]
    std::int64_t rows, dims;
    const std::uint8_t* queries;  // [queries, vector_bytes(kSign, dims)]
    std::int64_t n_queries;
    float* scores;  // [queries, rows]
    std::int64_t score_stride;
};

}  // namespace thimble::cpu
