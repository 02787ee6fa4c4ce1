// SPDX-License-Identifier: Apache-2.0
// A tokenizer as the files that a Hugging Face directory keeps it in.
#pragma once

#include <vector>

#include "core/ledger.h"
#include "io/hf_directory.h"

namespace thimble {

struct HfTokenizerFiles {
    // tokenizer.json, which is written piece by piece from the tokenizer: it must live as long;
    // tokenizer_config.json with the chat template; special_tokens_map.json.
    std::vector<SideFile> files;
    // "bos_token_id" and so on; "eos_token_id" is the tokenizer's EOS alone.
    JsonMembers token_ids;
    std::vector<std::int64_t> end_ids;   // all that end a turn or a text, EOS first
    std::shared_ptr<const Charge> held;  // bytes that the files need until they are written
};

// The patterns of pre-tokenizers in tokenizer.json.
inline constexpr std::string_view kLlama3Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
inline constexpr std::string_view kQwen2Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

}  // namespace thimble
