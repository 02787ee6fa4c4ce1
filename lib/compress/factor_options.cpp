// SPDX-License-Identifier: Apache-2.0
#include "compress/factor_job.h"

namespace thimble {

void FactorOptions::visit(OptionVisitor& v) {
    v.option({.name = "model",
              .letter = 'm',
              .help = "model to compress: GGUF file or Hugging Face directory",
              .value = "PATH",
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
    v.option({.name = "ratio",
              .help = "bytes of the matrices in all, as a share of what they take now",
              .value = "SHARE",
              .least = 0.01,
              .most = 1},
             ratio);
    v.option(
        {.name = "weighting",
         .help = "what of a matrix's inputs counts. full: all of their sum of x x^T; diagonal: "
                 "mean squares by column; none: the weights alone",
         .choices = {"full", "diagonal", "none"}},
        weighting);
    v.option({.name = "ranks",
              .help = "global: of all matrices together what adds least goes; equal: each matrix "
                      "is cut to the ratio",
              .choices = {"global", "equal"}},
             ranks);
    v.option(
        {.name = "format",
         .help = "of the factors: f32, f16, bf16, q8_0, ...; if not given the matrix's own, or "
                 "f16 where that is no float",
         .value = "NAME"},
        format);
    v.option({.name = "only",
              .help = "only matrices whose name this regular expression finds",
              .value = "RE"},
             only);
    v.option({.name = "damp",
              .help = "times the mean square of inputs, added to that of each",
              .least = 0,
              .most = 10},
             damp);
    CheckedTextOptions::visit(v);
}

}  // namespace thimble
