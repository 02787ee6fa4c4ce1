// SPDX-License-Identifier: Apache-2.0
// Which heads of a model find things: sentences that say what nothing else says ("needles") are put
// into a text at several depths; the model is asked for them at its end; and each query head is
// told by how much it attends to the needle when a token of it is answered ("CompressKV: Semantic
// Retrieval Heads Know What Tokens are Not Important Before Generation", 2025). Only answers count
// that hold more than half of the needle's words.
//
// A layer's score is what its attention loses when it reads few tokens only.
// differs: of the outputs of heads, before the output projection; the few tokens are the last 8 and
// the 24 that the row before attended to most.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "kv/head_profile.h"
#include "model/runner.h"
#include "text/tokenizer.h"

namespace thimble::eval {

struct RetrievalOptions {
    std::int64_t tokens = 1024;  // of the longest text
    std::int64_t lengths = 4;    // evenly up to that
    std::int64_t depths = 5;
    std::int64_t heads = 4;  // kept of each layer
    void visit(OptionVisitor& v);
};

struct RetrievalRun {
    std::int64_t tokens = 0;
    double depth = 0;   // of the needle, 0: at the beginning
    double recall = 0;  // of the needle's answer
};

struct RetrievalResult {
    HeadProfile profile;  // `model` is the caller's to set
    std::vector<RetrievalRun> runs;
    std::int64_t counted = 0;
};

// `filler`: tokens of the text around. Error(kFailure) where no needle was found.
using RetrievalProgress = std::function<void(std::int64_t done, std::int64_t all)>;
[[nodiscard]] RetrievalResult find_retrieval_heads(Runner& runner, const Tokenizer& tokenizer,
                                                   std::span<const Token> filler,
                                                   const RetrievalOptions& options,
                                                   const RetrievalProgress& progress);

}  // namespace thimble::eval
