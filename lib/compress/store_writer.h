// SPDX-License-Identifier: Apache-2.0
// Writes a store of embeddings, piece by piece.
#pragma once

#include <optional>
#include <string>

#include "compress/embedding_store.h"
#include "io/safetensors_writer.h"

namespace thimble {

struct StoreTask {
    const VectorFile* vectors = nullptr;
    const VectorFile* calibration = nullptr;  // for ranges, magnitude and length; may be `vectors`
    const PrincipalComponents* components = nullptr;
    StoreFacts facts;
    std::string path;
    SafetensorsOptions file;
};

// Numbers as decoded against what was coded.
struct StoreErrors {
    double relative = 0;    // root of the sum of squared errors over that of squares
    std::int64_t lost = 0;  // that became 0
    std::int64_t numbers = 0;
};

// nullopt where `passes` was told to stop; then there is no file.
[[nodiscard]] std::optional<StoreErrors> write_store(const StoreTask& task, VectorPasses& passes,
                                                     Team& team, Isa isa);
// Rows that it reads.
[[nodiscard]] std::int64_t store_rows(const StoreFacts& facts, const VectorFile& vectors,
                                      const VectorFile& calibration);

}  // namespace thimble
