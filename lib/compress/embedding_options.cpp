// SPDX-License-Identifier: Apache-2.0
#include "compress/embeddings.h"

namespace thimble {

void EmbeddingOptions::visit(OptionVisitor& v) {
    std::string formats;
    for (const EmbeddingFormat& known : embedding_formats())
        formats += (formats.empty() ? "" : ", ") + std::string(known.name);
    static const std::string format_help =
        formats + "; e4m3 if absent. With --frontier a list, and all if absent";
    v.option({.name = "input",
              .help = ".npy or .safetensors file of vectors, one a row; a store with --decompress",
              .value = "FILE",
              .required = true,
              .is_input = true,
              .positional = true},
             input);
    v.option({.name = "output",
              .letter = 'o',
              .help = "store to write (safetensors), or .npy with --decompress",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             output);
    v.option({.name = "overwrite", .help = "replace an existing output", .changes_output = false},
             overwrite);
    v.option({.name = "decompress", .help = "write a store's vectors as float32"}, decompress);
    v.option({.name = "tensor", .help = "which one of a safetensors file", .value = "NAME"},
             tensor);
    v.option({.name = "format", .help = format_help.c_str(), .value = "NAME"}, format);
    v.option({.name = "pca",
              .help = "keep the principal directions: a part of the dimensions (0.5) or how many "
                      "(256). With --frontier a list",
              .value = "PART"},
             pca);
    v.option({.name = "train",
              .help = "vectors for the directions and for int8's ranges; the input if absent",
              .value = "FILE",
              .is_input = true},
             train);
    v.option({.name = "similarity",
              .help = "how vectors will be compared; for cosine they are made of length one",
              .choices = {"cosine", "dot"}},
             similarity);
    v.option({.name = "prescale",
              .help = "cast 2^N times the numbers, so that small ones do not become 0",
              .value = "N",
              .least = -64,
              .most = 64},
             prescale);
    v.group("Quality");
    v.option({.name = "queries",
              .help = "vectors to search for: nDCG@10 and recall@10 are told",
              .value = "FILE",
              .is_input = true},
             queries);
    v.option({.name = "qrels",
              .help = "lines of query, document, relevance, by row from 0; if absent the ten "
                      "nearest of the vectors as they are count as relevant",
              .value = "FILE",
              .is_input = true},
             judgements);
    v.option({.name = "binary-scores",
              .help = "signs against the query's numbers, or hamming: its signs",
              .choices = {"asymmetric", "hamming"}},
             binary_scores);
    v.option({.name = "frontier",
              .help = "try formats with and without --pca: size and quality of each"},
             frontier);
    v.option({.name = "budget",
              .help = "with --frontier and -o: write the best that is no larger",
              .value = "BYTES"},
             budget);
    v.option({.name = "held-out",
              .help = "with --frontier and no --queries: so many vectors are the queries, and not "
                      "among those searched",
              .value = "N",
              .least = 1,
              .most = 1e6},
             held_out);
}

}  // namespace thimble
