// SPDX-License-Identifier: Apache-2.0
#include "train/data/options.h"

#include "core/error.h"
#include "text/tokenizer.h"

namespace thimble::train {

void DataOptions::visit(OptionVisitor& v) {
    v.group("Data");
    v.option({.name = "data",
              .help = "samples to train on: JSON lines with messages, prompt and completion, or "
                      "text; plain text; or a directory with train.jsonl and valid.jsonl",
              .value = "FILE",
              .required = true,
              .is_input = true},
             train);
    v.option({.name = "validation",
              .help = "samples to validate on, in the same forms",
              .value = "FILE",
              .is_input = true},
             validation);
    v.option({.name = "validation-split",
              .help = "part of the samples of --data to validate on instead, chosen by --seed",
              .value = "FRACTION",
              .least = 0,
              .most = 0.9},
             validation_split);
    v.option({.name = "data-format",
              .help = "auto: JSON lines where the name ends in .jsonl or .ndjson, else text",
              .choices = {"auto", "jsonl", "text"}},
             format);
    visit_rows(v);
    visit_samples(v);
}

void DataOptions::visit_rows(OptionVisitor& v) {
    v.option({.name = "ctx-size",
              .letter = 'c',
              .help = "most tokens of a row",
              .value = "N",
              .least = 2,
              .most = 1 << 24},
             context_tokens);
    v.option({.name = "pack",
              .help = "several samples in a row, none of which sees another: by best fit "
                      "decreasing, by first fit, or one sample a row",
              .choices = {"bfd", "ff", "none"}},
             pack);
    v.option({.name = "pack-window",
              .help = "samples that are packed together",
              .value = "N",
              .least = 1,
              .most = 1 << 20},
             pack_window);
    v.option({.name = "long",
              .help = "what becomes of a sample that is longer than a row: several ones, its "
                      "beginning, nothing, or an error",
              .choices = {"split", "truncate", "drop", "error"}},
             too_long);
    v.option({.name = "shuffle", .help = "in a new order each epoch, chosen by --seed"}, shuffle);
}

void DataOptions::visit_samples(OptionVisitor& v) {
    v.option({.name = "mask-prompt",
              .help = "learn completions and the assistant's turns only, not what they answer"},
             mask_prompt);
    v.option({.name = "chat-template",
              .help = "form of the chat template; default: recognised from the model",
              .value = "NAME",
              .choices = chat_forms()},
             chat_template);
    v.option({.name = "add-eos", .help = "end texts and completions with the model's EOS token"},
             add_eos);
    v.option({.name = "parse-special",
              .help = "special tokens' text in texts, prompts and completions means the tokens"},
             parse_special);
    v.option({.name = "text-split",
              .help = "documents of a plain text: the whole, what blank lines divide, or lines",
              .choices = {"none", "paragraph", "line"}},
             text_split);
    v.option({.name = "document-separator",
              .help = "line that divides the documents of a plain text: '<|endoftext|>'",
              .value = "TEXT"},
             document_separator);
}

void DataOptions::check() const {
    if (validation_split > 0 && !validation.empty()) {
        throw Error(Exit::kUsage, "--validation-split",
                    "excludes --validation, which names the samples to validate on", "give one");
    }
    if (!document_separator.empty() && text_split != "none") {
        throw Error(Exit::kUsage, "--document-separator", "excludes --text-split " + text_split,
                    "give one");
    }
}

}  // namespace thimble::train
