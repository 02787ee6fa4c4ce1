// SPDX-License-Identifier: Apache-2.0
// Importance matrices: how strongly each column of each weight matrix is used, as sums of squares
// of its input over calibration tokens. The error of a column matters in proportion to them, so
// encoders weigh with them. In memory always raw sums and token counts; on disk either a GGUF file
// (general.type = imatrix) or the older .dat, both as llama-imatrix writes and llama-quantize reads
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/ledger.h"
#include "io/atomic_file.h"

namespace thimble {

struct ImportanceEntry {
    std::vector<float> sums;  // [matrices, cols], sums of squares
    std::vector<std::int64_t>
        counts;  // [matrices], tokens summed; one matrix but for expert stacks
    [[nodiscard]] std::size_t cols() const noexcept { return sums.size() / counts.size(); }
};

struct ImportanceMatrix {
    std::map<std::string, ImportanceEntry>
        entries;                        // by the weight's name; sums and counts not empty
    std::vector<std::string> datasets;  // names of the texts, without directories
    std::int64_t chunk_count = 0, chunk_tokens = 0;
    Charge charge;  // of the entries' numbers

    // Adds another's sums and counts; the chunk count follows from the counts. Error(kBadData)
    // naming `where` (the other's file) when an entry of both has two shapes.
    void merge(const ImportanceMatrix& other, std::string_view where);
    // Drops entries whose name contains one of `excluded`, and where `included` is not empty those
    // that contain none of it. Error(kUsage) for a text that no name contains.
    void select(std::span<const std::string> included, std::span<const std::string> excluded);
};

enum class ImportanceFormat : std::uint8_t { kGguf, kDat };

// The .dat form counts chunks, not tokens; one chunk is taken for this many.
inline constexpr std::int64_t kDefaultChunkTokens = 512;

// A file of either kind, told apart by its first bytes. Errors: kNoInput, kBadData. Sums that are
// negative or not finite are kept, for the user of an entry to judge; counts are checked.
[[nodiscard]] ImportanceMatrix read_importance(const std::string& path,
                                               std::int64_t dat_chunk_tokens = kDefaultChunkTokens);
[[nodiscard]] ImportanceMatrix parse_importance(
    std::span<const std::byte> bytes, const std::string& name,
    std::int64_t dat_chunk_tokens = kDefaultChunkTokens);

// The same matrix gives the same bytes. The .dat form holds means: matrices that saw no token get
// 1, entries in which none did are left out.
void write_importance(const std::string& path, const ImportanceMatrix& matrix,
                      ImportanceFormat format, IfExists if_exists);

// Sums of an entry that are negative or not finite.
[[nodiscard]] std::size_t unusable_sums(const ImportanceEntry& entry) noexcept;

}  // namespace thimble
