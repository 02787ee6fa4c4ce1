// SPDX-License-Identifier: Apache-2.0
// What a run leaves: adapters as a PEFT directory or a GGUF file, a whole model as a Hugging Face
// directory or a GGUF file.
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
    std::string container = {};  // gguf, hf; "": by the path
    std::string type = "auto";   // of a whole model's matrices: f32, bf16, f16; auto: as they were,
                                 // f32 where that is a quantised type
    bool merge = false;          // adapters become part of a whole model
    bool replace = false;
    // The tokenizer is written, where a Hugging Face directory's own files could be taken over.
    bool new_tokenizer = false;
    ProvenanceStep step = {};              // without its inputs
    std::vector<std::string> inputs = {};  // besides the model

    [[nodiscard]] bool wants_gguf() const {
        return container == "gguf" || (container.empty() && path.ends_with(".gguf"));
    }
};

// Before long work: Error(kUsage, kCannotCreate) when the result could not be written there.
void check_output(const ResultTarget& target, const Method& method);
// Adds the most that is held while it is written, apart from the trainer's own.
void add_output_to_plan(Plan& plan, const ResultTarget& target, const Method& method);
void write_output(const ResultTarget& target, Trainer& trainer);

}  // namespace thimble::train
