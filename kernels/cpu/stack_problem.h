// SPDX-License-Identifier: Apache-2.0
// A matrix as a sum of blocks, each of which has the signs of all weights and magnitudes of low
// rank: "BitStack: Any-Size Compression of Large Language Models in Variable Memory Environments"
// (2025).
//   w[r][c] = sum over blocks of scale * s[r][c] * sum over k of a[r][k] * b[c][k],  s: -1 or 1
//
// Two formulations, of which ops takes what is cheaper for the tokens at hand. As it stands a block
// costs `rank` products a weight. For few tokens the sum over columns comes first:
//   y[r] = sum over blocks and k of scale * a[r][k] * sum over c of s[r][c] * b[c][k] * x[c],
// whose inner sums over four columns have 16 values by their signs. These are tabulated, for 16 k
// side by side, so that a block costs 16 k a lookup and an addition for four weights: a quarter.
// differs: the paper's kernel rebuilds weights whatever the batch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thimble::cpu {

struct SignedBlock {
    const std::byte* signs;  // [rows, sign_row_bytes(cols)], bit c % 8 of byte c / 8 set: -1
    const std::uint16_t* a;  // f16 [rows, rank]
    const std::uint16_t* b;  // f16 [cols, rank]
    float scale;
};

[[nodiscard]] constexpr std::int64_t sign_row_bytes(std::int64_t cols) noexcept {
    return (cols + 7) / 8;
}

// Most rows of one of the problems below.
inline constexpr std::int64_t kStackRows = 256;

// out[t][r - first] (+)= sum over c of x[t][c] * w[r][c] (+ bias[r - first]) for `rows` rows.
struct StackProduct {
    const SignedBlock* blocks;
    std::int64_t count, rank, first, rows, cols;
    const float* x;  // [tokens, cols]
    std::int64_t tokens, x_stride;
    float* out;  // [tokens, rows]
    std::int64_t out_stride;
    const float* bias;  // [rows] or null
    bool accumulate;
};

// out[r - first][c] = w[r][c].
struct StackRows {
    const SignedBlock* blocks;
    std::int64_t count, rank, first, rows, cols;
    float* out;  // [rows, cols]
};

}  // namespace thimble::cpu
