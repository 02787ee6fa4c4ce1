// SPDX-License-Identifier: Apache-2.0
// Cuts text into the words inside which byte-level BPE merges. Each known pre-tokenizer is a
// hand-written scanner for its published pattern: linear time on any bytes, and no pattern from a
// model file is ever compiled. `next_word` is the whole contract: words follow one another without
// gaps.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

enum class PreTokenizer : std::uint8_t {
    kGpt2,    // contractions, letters, numbers, the rest; each with one leading space
    kSmollm,  // every number on its own first, then kGpt2 on what lies between
    kLlama3,  // numbers in groups of three, contractions in any case, line ends kept together
    kQwen2,   // kLlama3 with single numbers
};

struct PreTokenizerName {
    PreTokenizer kind;
    std::string_view name;  // tokenizer.ggml.pre
    bool ignore_merges;     // a word that is a piece is that token, whatever the merges say
    bool add_bos;           // where the file does not say
};
[[nodiscard]] std::optional<PreTokenizerName> find_pre_tokenizer(std::string_view name);
[[nodiscard]] std::vector<std::string> pre_tokenizer_names();

// End of the word that starts at `at` (< text.size()); `at` must be 0 or an earlier result.
[[nodiscard]] std::size_t next_word(PreTokenizer kind, std::string_view text, std::size_t at);

}  // namespace thimble
