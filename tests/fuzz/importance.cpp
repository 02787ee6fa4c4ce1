// SPDX-License-Identifier: Apache-2.0
// Any bytes as an importance matrix: an Error, or entries that fit the file, and a matrix that can
// be merged with itself.
#include "calib/importance.h"

#include <cstdlib>

#include "core/error.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        ImportanceMatrix matrix = parse_importance(std::as_bytes(std::span(data, size)), "fuzz");
        if (matrix.entries.empty() || matrix.chunk_count < 0 || matrix.chunk_tokens < 0)
            std::abort();
        std::size_t sums = 0;
        for (const auto& [name, entry] : matrix.entries) {
            if (entry.counts.empty() || entry.sums.empty()) std::abort();
            if (entry.cols() * entry.counts.size() != entry.sums.size()) std::abort();
            for (const std::int64_t count : entry.counts) {
                if (count < 0) std::abort();
            }
            if (unusable_sums(entry) > entry.sums.size()) std::abort();
            sums += entry.sums.size();
        }
        if (sums * sizeof(float) > size) std::abort();
        const ImportanceMatrix again =
            parse_importance(std::as_bytes(std::span(data, size)), "again");
        matrix.merge(again, "again");
        if (matrix.entries.size() != again.entries.size()) std::abort();
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
