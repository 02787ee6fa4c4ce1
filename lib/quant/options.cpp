// SPDX-License-Identifier: Apache-2.0
#include "quant/options.h"

#include <algorithm>
#include <filesystem>

#include "core/strings.h"
#include "quant/rules.h"

namespace thimble {

namespace {

// Names, and behind some the options that they take.
const std::string& format_help() {
    static const std::string text = [] {
        std::string help =
            "format or mix of the weight matrices, as llama.cpp names and mixes them: q4_k is the "
            "mix q4_k_m, q4_k with --pure is q4_k everywhere; copy keeps each matrix as it is; "
            "vectors stay f32. Options follow a name, int4:group=128,fit=hqq:";
        for (const InlineForm& form : target_forms()) {
            help += " " + form.name;
            std::string keys;
            for (const OptionRecord& option : form.options) {
                keys += (keys.empty() ? ":" : ",") + std::string(option.info.name) + "=" +
                        option.values.front();
            }
            help += keys;
        }
        return help;
    }();
    return text;
}

void visit_output(OptionVisitor& v, QuantizeOptions& o) {
    v.option(
        {.name = "container",
         .help = "gguf, or hf: a Hugging Face directory in f16, bf16 or f32; without it by the "
                 "output, where a name that ends in / is a directory",
         .choices = {"gguf", "hf"}},
        o.container);
    v.option({.name = "split-max-size",
              .help = "write several files with at most so much tensor data each: 2G or 2GB is "
                      "2*10^9 bytes; a directory's files are of 5GB without it",
              .value = "SIZE",
              .also = "shard-size"},
             o.split_max_size);
    v.option({.name = "split-max-tensors",
              .help = "write several GGUF files with at most so many tensors each; 0: no limit",
              .value = "N",
              .least = 0,
              .most = 1e9},
             o.split_max_tensors);
    o.edits.visit(v);
}

// Of what the model is, not of what it computes.
void visit_rewrites(OptionVisitor& v, QuantizeOptions& o) {
    v.option({.name = "rearrange",
              .help = "put channels of like size side by side, for blocks that share a scale: ffn "
                      "(the middle axis), values (inside each value head), or all; the model "
                      "computes the same, but adapters and importance matrices of the old order no "
                      "longer fit it",
              .value = "LIST"},
             o.rearrange);
    v.option(
        {.name = "smooth",
         .help = "move the size of input channels from activations into weights (SmoothQuant): "
                 "0 levels the weights, 1 the activations; needs --imatrix; -1: not at all",
         .value = "ALPHA",
         .least = QuantizeOptions::kNoSmoothing,
         .most = 1},
        o.smooth);
}

}  // namespace

void QuantizeOptions::visit(OptionVisitor& v) {
    v.option({.name = "model",
              .letter = 'm',
              .help = "GGUF file, or Hugging Face directory",
              .value = "PATH",
              .required = true,
              .is_input = true,
              .positional = true},
             model);
    v.option({.name = "output",
              .letter = 'o',
              .help = "GGUF file to write, or Hugging Face directory; without it "
                      "<model>-<format>.gguf beside the model",
              .value = "PATH",
              .changes_output = false,
              .is_output = true},
             output);
    v.option({.name = "format",
              .help = format_help().c_str(),
              .value = "FORMAT",
              .inline_forms = target_forms},
             format);
    visit_output(v, *this);
    adapters.visit(v);
    v.option({.name = "tensor-type",
              .help = "format of the matrices whose name the regular expression finds; "
                      "the first match wins",
              .value = "REGEX=FORMAT"},
             tensor_type);
    v.option({.name = "tensor-type-file",
              .help = "file of such rules, separated by spaces or line ends; they come after "
                      "those of the flags",
              .value = "FILE",
              .is_input = true},
             tensor_type_file);
    v.option({.name = "output-tensor-type",
              .help = "format of the output head, before any rule",
              .value = "FORMAT"},
             output_tensor_type);
    v.option({.name = "token-embedding-type",
              .help = "format of the token embedding, before any rule",
              .value = "FORMAT"},
             token_embedding_type);
    v.option({.name = "leave-output-tensor", .help = "store output.weight as the model does"},
             leave_output_tensor);
    v.option({.name = "imatrix",
              .help = "importance matrix (GGUF or .dat): columns that matter more are encoded more "
                      "closely",
              .value = "FILE",
              .is_input = true},
             imatrix);
    v.option({.name = "include-weights",
              .help = "use only entries of the importance matrix whose name contains this",
              .value = "TEXT"},
             include_weights);
    v.option({.name = "exclude-weights",
              .help = "do not use entries of the importance matrix whose name contains this",
              .value = "TEXT"},
             exclude_weights);
    visit_rewrites(v, *this);
    v.option({.name = "pure",
              .help = "all matrices in the base format of --format: no mix, no better output head"},
             pure);
    v.option({.name = "strict",
              .help = "refuse instead of choosing another format for rows that are not whole "
                      "blocks",
              .changes_output = false},
             strict);
    v.option({.name = "allow-requantize",
              .help = "also quantise tensors that are quantised already; errors add up",
              .changes_output = false},
             allow_requantize);
    v.option({.name = "overwrite", .help = "replace an existing output", .changes_output = false},
             overwrite);
    v.option(
        {.name = "resume",
         .help = "make checkpoints beside the output (OUTPUT.partial*), go on from those of the "
                 "same work, and leave them when stopped: exit code 75, run again",
         .changes_output = false},
        resume);
    v.option({.name = "checkpoint-every",
              .help = "output between two checkpoints",
              .value = "BYTES",
              .changes_output = false},
             checkpoint_every);
    v.option({.name = "report-error",
              .help = "add each tensor's error to the JSON report",
              .changes_output = false},
             report_error);
    v.option({.name = "error-report",
              .help = "write each tensor's error as soon as it is stored, a line of JSON each",
              .value = "FILE|-",
              .changes_output = false,
              .is_output = true},
             error_report);
}

bool QuantizeOptions::wants_hf() const {
    return container == "hf" || (container.empty() && output.ends_with('/'));
}

std::string QuantizeOptions::output_path() const {
    if (!output.empty()) return output;
    std::filesystem::path path = std::filesystem::path(model).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();  // "directory/"
    if (path.extension() == ".gguf") path.replace_extension();
    if (wants_hf()) return path.string() + "-hf";
    std::string name = to_lower(format.empty() ? "q8_0" : format);
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == ':' || c == ',' || c == '='; }, '-');
    return path.string() + "-" + name + ".gguf";
}

}  // namespace thimble
