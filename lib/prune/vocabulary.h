// SPDX-License-Identifier: Apache-2.0
// A smaller vocabulary that is still a tokenizer: which pieces the kept ones are merged from, and
// the tokenizer.ggml.* keys of what is left.
#pragma once

#include <cstdint>
#include <span>

#include "io/model_file.h"
#include "prune/cut.h"

namespace thimble::prune {

// Tokens that no vocabulary can do without: control tokens, single bytes and characters that stand
// for bytes, those that the keys name.
[[nodiscard]] Kept indispensable_tokens(const Metadata& metadata);
// `tokens` and, for each of them, the pieces that merging its text passes through, so that the same
// text is still merged to it. "Neural Machine Translation of Rare Words with Subword Units" (2016)
// for byte-level vocabularies, whose merges have ranks; by score for the others.
[[nodiscard]] Kept with_parts(const Metadata& metadata, const Kept& tokens);
// Keeps these tokens, in their order: pieces, scores, kinds, merges among them, and the tokens that
// keys name by their new numbers.
void trim_vocabulary(Metadata& metadata, const Kept& tokens);

}  // namespace thimble::prune
