// SPDX-License-Identifier: Apache-2.0
#include "prune/options.h"

#include "format/weight_format.h"
#include "prune/pruner.h"

namespace thimble::prune {
namespace {

std::vector<InlineForm> format_forms() {
    std::vector<InlineForm> forms;
    for (const char* name : {"f32", "f16", "bf16", "sparse", "sparse8", "sparse4"}) {
        const SharedFormat format = make_format(name, "format");
        forms.push_back({name, list_options([&](OptionVisitor& v) { format->visit_options(v); })});
    }
    return forms;
}

}  // namespace

void PruneOptions::visit(OptionVisitor& v) {
    v.option({.name = "model",
              .letter = 'm',
              .help = "GGUF file (the first of a split one) or Hugging Face directory",
              .value = "PATH",
              .required = true,
              .is_input = true,
              .positional = true},
             model);
    v.option(
        {.name = "output",
         .letter = 'o',
         .help = "GGUF file to write; without it beside the model, with the method in its name",
         .value = "FILE",
         .changes_output = false,
         .is_output = true},
        output);
    v.option({.name = "method",
              .help = "what to leave out, with its options",
              .value = "NAME:...",
              .required = true,
              .inline_forms = pruner_forms},
             method);
    v.option({.name = "only",
              .help = "zero weights only in tensors whose name this regular expression finds",
              .value = "RE"},
             only);
    v.option({.name = "format",
              .help = "of matrices whose weights change, unless they are f32, f16 or bf16 already; "
                      "f16 if not given. sparse, sparse8 and sparse4 are of those that are pruned, "
                      "whatever they were: zeros are not stored",
              .value = "NAME",
              .inline_forms = format_forms},
             format);
    v.option({.name = "overwrite", .help = "replace an existing output", .changes_output = false},
             overwrite);
    CheckedTextOptions::visit(v);
}

std::string PruneOptions::output_path() const {
    if (!output.empty()) return output;
    std::string stem = model;
    while (stem.size() > 1 && stem.ends_with('/')) stem.pop_back();
    if (stem.ends_with(".gguf")) stem.resize(stem.size() - 5);
    return stem + "-" + method.substr(0, method.find(':')) + ".gguf";
}

}  // namespace thimble::prune
