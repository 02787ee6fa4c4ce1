// SPDX-License-Identifier: Apache-2.0
// Where a model can be rewritten without changing what it computes: groups of tensors between which
// a permutation or a scale of channels passes unseen.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/store.h"

namespace thimble {

// What --rearrange and --smooth ask for.
struct FoldWish {
    bool ffn = false, values = false;  // channels to be rearranged
    bool smooth = false;
    [[nodiscard]] bool any() const noexcept { return ffn || values || smooth; }
};

// "ffn,values" or "all". Throws Error(kUsage) for another name, with the nearest.
[[nodiscard]] FoldWish parse_rearrange(const std::string& list);

struct FoldSite {
    enum class Kind : std::uint8_t {
        kFfn,     // the middle axis: rows of gate and up, columns of down
        kValues,  // channels of each key-value head: rows of v, columns of the output
        kSmooth,  // a norm and the matrices that it feeds
    };
    Kind kind = Kind::kFfn;
    std::int64_t layer = 0;
    // The matrices whose columns decide, of one width.
    std::vector<const SourceTensor*> keys;
    std::vector<const SourceTensor*> rows, columns;  // kFfn, kValues: what is reordered
    const SourceTensor* norm = nullptr;              // kSmooth
};

// The sites of the layers that have what a wish needs. Throws Error(kUsage) for a wish that no
// layer can fulfil, for a tensor that something else reads, too, and for rows that the container
// orders in a way of its own.
[[nodiscard]] std::vector<FoldSite> fold_sites(const FoldWish& wish,
                                               const std::vector<std::string>& sublayers,
                                               const std::vector<UnitSpec>& units);

}  // namespace thimble
