// SPDX-License-Identifier: Apache-2.0
// How much of each matrix goes, so that all of them together take no more bytes than there are: the
// most that is saved for what is lost, over all matrices.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace thimble {

// A matrix at one rank.
struct RankChoice {
    std::int64_t rank = 0;  // 0: the matrix as it is
    std::uint64_t bytes = 0;
    double loss = 0;  // share of its energy
};
// From the matrix as it is on, with falling bytes and no falling loss.
using RankChoices = std::vector<RankChoice>;

// Of each matrix the place of its choice. A step is taken in the order of loss per byte saved, and
// steps from which a larger one gains more per byte are passed over: the choices lie on the convex
// hulls of the matrices, but for the last, of which the largest is taken that fits. What is then
// left of the bytes goes to the matrices that gain most by it. Error(kUsage) naming `where` when
// the least choices of all are too many bytes.
[[nodiscard]] std::vector<std::size_t> choose_ranks(const std::vector<RankChoices>& matrices,
                                                    std::uint64_t bytes, std::string_view where);
// Each matrix by itself: the first choice of at most `share` of its bytes; the last where there is
// none.
[[nodiscard]] std::vector<std::size_t> choose_equal(const std::vector<RankChoices>& matrices,
                                                    double share);

}  // namespace thimble
