// SPDX-License-Identifier: Apache-2.0
#include "compress/stack_job.h"
#include "model/stacked_tensor.h"

namespace thimble {

void StackOptions::visit(OptionVisitor& v) {
    v.option({.name = "model",
              .letter = 'm',
              .help = "model to compress: GGUF file or Hugging Face directory",
              .value = "FILE",
              .required = true,
              .is_input = true,
              .positional = true},
             model);
    v.option({.name = "output",
              .letter = 'o',
              .help = "GGUF file to write",
              .value = "FILE",
              .changes_output = false,
              .required = true,
              .is_output = true},
             output);
    v.option({.name = "overwrite", .help = "replace an existing output", .changes_output = false},
             overwrite);
    v.option({.name = "rank",
              .help = "of a block's magnitudes",
              .value = "N",
              .least = 1,
              .most = static_cast<double>(kMostStackRank)},
             rank);
    v.option({.name = "levels",
              .help = "blocks of a matrix",
              .value = "N",
              .least = 1,
              .most = static_cast<double>(kMostStackLevels)},
             levels);
    v.option({.name = "imatrix",
              .help = "importance matrix (GGUF or .dat): columns that matter more are encoded more "
                      "closely",
              .value = "FILE",
              .is_input = true},
             imatrix);
    v.option(
        {.name = "calibration",
         .help = "text, or JSON lines (.jsonl): what --imatrix would hold is collected from it, "
                 "and --order ppl measures on its end",
         .value = "FILE",
         .is_input = true},
        calibration);
    v.option({.name = "ctx-size",
              .letter = 'c',
              .help = "tokens of a window of that text",
              .value = "N",
              .least = 16,
              .most = 1 << 20},
             chunk_tokens);
    v.option(
        {.name = "chunks", .help = "windows to collect from; -1: all", .value = "N", .least = -1},
        chunks);
    v.option(
        {.name = "order",
         .help = "how the blocks of a level are sorted. layers: from the first layer on; ppl: by "
                 "the perplexity that each step gives, which takes a pass over the windows for "
                 "each block",
         .choices = {"layers", "ppl"}},
        order);
    v.option({.name = "order-chunks",
              .help = "windows that --order ppl measures on",
              .value = "N",
              .least = 1},
             order_chunks);
}

}  // namespace thimble
