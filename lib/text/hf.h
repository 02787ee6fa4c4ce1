// SPDX-License-Identifier: Apache-2.0
// Tokenizers from a Hugging Face directory: tokenizer.json with its side files, already parsed.
// What they declare must be one of the forms that we run ourselves; anything else is refused by the
// name of its key.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/json.h"
#include "text/bpe.h"

namespace thimble {

struct HfFiles {
    std::string where;  // tokenizer.json's path, for errors
    Json tokenizer;     // tokenizer.json
    Json settings;      // tokenizer_config.json, or null
    Json special_map;   // special_tokens_map.json, or null
    Json config;        // config.json, or null
    std::string chat_template;
    std::uint64_t bytes = 0;  // of tokenizer.json
    Charge parsing;           // what the values above take, while they live
};
[[nodiscard]] HfFiles read_hf_files(const ModelFile& file);
// Bytes charged while tokenizer.json is parsed and the vocabulary is built from it.
[[nodiscard]] std::uint64_t parsing_bytes(std::uint64_t tokenizer_json_bytes) noexcept;

// How text is prepared, as normalizer, pre_tokenizer and model say.
struct HfForm {
    bool byte_level = false;
    std::string pre = "default";
    bool space_prefix = false, prefix_first_only = false;
};
[[nodiscard]] HfForm read_form(const HfFiles& files);
// Special tokens, BOS/EOS rules and chat template; `find` maps a piece to its id.
[[nodiscard]] TokenizerRules read_hf_rules(const HfFiles& files, const HfForm& form,
                                           const Vocabulary& vocabulary);

[[nodiscard]] std::unique_ptr<Tokenizer> tokenizer_from_hf(const HfFiles& files);
[[nodiscard]] std::uint64_t predict_hf_bytes(const HfFiles& files);

}  // namespace thimble
