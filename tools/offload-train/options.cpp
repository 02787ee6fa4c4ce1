// SPDX-License-Identifier: Apache-2.0
#include "options.h"

namespace thimble::train {

void ToolOptions::visit(OptionVisitor& v) {
    visit_model(v);
    v.group("Method");
    v.option({.name = "method",
              .help = "what is trained: full | full:weights=bf16 | "
                      "lora:rank=16,alpha=32,dropout=0.05,rslora,dora",
              .value = "NAME[:KEY=VALUE,...]",
              .inline_forms = method_forms},
             loop.trainer.method);
    v.option({.name = "optimizer",
              .help = "how: adamw | adamw8bit | sgd | lomo, with options",
              .value = "NAME[:KEY=VALUE,...]",
              .inline_forms = optimizer_forms},
             loop.trainer.optimizer);
    loop.visit(v);
    visit_memory(v);
    v.group("Reports and state");
    v.option({.name = "metrics",
              .help = "a JSON line per step and validation",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             metrics);
    v.option({.name = "state",
              .help = "where the whole state is saved when stopped or by --save-every; a run with "
                      "the same options goes on from it. Default: OUTPUT.state",
              .value = "FILE",
              .changes_output = false},
             state);
    v.option({.name = "keep-state",
              .help = "keep the state of a run that is done",
              .changes_output = false},
             keep_state);
}

void ToolOptions::visit_model(OptionVisitor& v) {
    v.group("Model");
    v.option({.name = "model",
              .letter = 'm',
              .help = "model to train: GGUF file or Hugging Face directory, in any weight format",
              .value = "FILE",
              .is_input = true},
             model);
    v.option(
        {.name = "init",
         .help = "random: begin with random weights, as --model-config says, instead of a model's",
         .choices = {"pretrained", "random"}},
        init);
    v.option({.name = "model-config",
              .help = "of a random model: config.json, or a directory with it",
              .value = "FILE",
              .is_input = true},
             config);
    v.option(
        {.name = "tokenizer",
         .help =
             "model whose tokenizer a random model takes; default: the one beside --model-config",
         .value = "FILE",
         .is_input = true},
        tokenizer);
    v.option(
        {.name = "output",
         .letter = 'o',
         .help = "NAME.gguf, which llama.cpp reads, or a directory: for PEFT with adapters, of "
                 "Hugging Face with a whole model",
         .value = "PATH",
         .required = true,
         .is_output = true},
        output);
    v.option({.name = "container",
              .help = "gguf, or hf: a directory; without it by the output's name",
              .choices = {"gguf", "hf"}},
             container);
    v.option({.name = "merge", .help = "write the model with its adapters merged in"}, merge);
    v.option(
        {.name = "outtype",
         .help = "type of a whole model's matrices; auto: as they were, f32 for quantised ones",
         .choices = {"auto", "f32", "bf16", "f16"}},
        outtype);
    v.option({.name = "force", .help = "replace an output that is there", .changes_output = false},
             force);
}

void ToolOptions::visit_memory(OptionVisitor& v) {
    v.group("Memory and speed");
    v.option({.name = "checkpoint-layers",
              .help = "layers between activation checkpoints: the others are computed twice; 0: "
                      "everything is kept",
              .value = "N",
              .changes_output = false,
              .least = 0},
             loop.trainer.pass.checkpoint_layers);
    v.option({.name = "offload",
              .help = "what lies on disk and is fetched ahead of its use: optimizer=disk, "
                      "activations=disk, parameters=disk",
              .value = "WHAT=WHERE,...",
              .changes_output = false},
             offload);
    v.option({.name = "offload-dir",
              .help = "directory on a fast disk for it; the file there has no name and goes with "
                      "the process. Default: the output's",
              .value = "DIR",
              .changes_output = false},
             offload_directory);
    v.option({.name = "loss",
              .help = "cut: no logits in memory; chunked: 32 MiB of them at a time, less "
                      "computation; dense: all",
              .choices = {"cut", "chunked", "dense"}},
             loss);
    v.option({.name = "precision",
              .help = "of products: bf16 operands summed in f32, or f32; auto: bf16 where the CPU "
                      "has it, and on a CUDA device",
              .choices = {"auto", "f32", "bf16"}},
             precision);
}

}  // namespace thimble::train
