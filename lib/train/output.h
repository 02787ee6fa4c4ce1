// SPDX-License-Identifier: Apache-2.0
// What a run leaves: adapters as a PEFT directory or a GGUF file, or a whole model as GGUF.
#pragma once

#include <string>
#include <vector>

#include "io/provenance.h"
#include "text/tokenizer.h"
#include "train/trainer.h"

namespace thimble::train {

struct ResultTarget {
    const ModelSource& source;
    const Tokenizer& tokenizer;
    std::string path;
    std::string type = "auto";  // of a whole model's matrices: f32, bf16, f16; auto: as they were,
                                // f32 where that is a quantised type
    bool merge = false;         // adapters become part of a whole model
    bool replace = false;
    ProvenanceStep step;              // without its inputs
    std::vector<std::string> inputs;  // besides the model
};

// Before long work: Error(kUsage, kCannotCreate) when the result could not be written there.
void check_output(const ResultTarget& target, const Method& method);
// Most bytes held (Purpose::kIo) while it is written, apart from the trainer's own.
[[nodiscard]] std::size_t output_bytes(const ResultTarget& target);
void write_output(const ResultTarget& target, Trainer& trainer);

}  // namespace thimble::train
