// SPDX-License-Identifier: Apache-2.0
#include "options.h"

namespace thimble::run {

void RunOptions::visit(OptionVisitor& v) {
    v.group("Prompt");
    v.option({.name = "model",
              .letter = 'm',
              .help = "model to run: GGUF file or Hugging Face directory",
              .value = "FILE",
              .is_input = true},
             model);
    adapters.visit(v);
    v.option({.name = "prompt",
              .letter = 'p',
              .help = "text to go on from; - for stdin, also the default in a pipeline",
              .value = "TEXT"},
             prompt);
    v.option({.name = "file",
              .letter = 'f',
              .help = "read the prompt from a file; one newline at its end is dropped",
              .value = "FILE",
              .is_input = true},
             file);
    v.option(
        {.name = "parse-special", .help = "control-token text in the prompt stands for the token"},
        parse_special);
    v.option({.name = "chat",
              .help = "put the prompt into the model's chat template; without one, converse"},
             chat);
    v.option({.name = "interactive",
              .letter = 'i',
              .help = "converse though stdin is no terminal: one message per line"},
             interactive);
    v.option({.name = "system", .help = "system message of a chat", .value = "TEXT", .also = "sys"},
             system);
    v.option({.name = "chat-template",
              .help = "form of the chat template; default: recognised from the model",
              .value = "NAME",
              .choices = chat_forms()},
             chat_template);
    repeat.visit(v);
    generate.visit(v);
    kv.visit(v);
    v.option(
        {.name = "kv-save",
         .help = "write the keys and values of prompt and answer at the end; -n 0: of the prompt",
         .value = "FILE",
         .changes_output = false,
         .is_output = true},
        kv_save);
    v.option(
        {.name = "kv-load",
         .help = "go on from what --kv-save wrote: the prompt follows that text, or repeats it "
                 "and goes on",
         .value = "FILE",
         .is_input = true},
        kv_load);
    v.option({.name = "kv-dump",
              .help = "write which tokens each head of each layer still holds at the end, as JSON",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             kv_dump);
    workers.visit(v);
    visit_computation(v);
    v.group("Machine profile");
    v.option({.name = "probe",
              .help = "measure this machine instead and write its profile",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             probe);
    probing.visit(v);
}

void RunOptions::visit_computation(OptionVisitor& v) {
    v.group("Computation");
    v.option({.name = "batch-size",
              .letter = 'b',
              .help = "most tokens per forward step",
              .value = "N",
              .changes_output = false,
              .least = 1,
              .most = 1 << 20},
             batch);
    v.option(
        {.name = "activations",
         .help = "how quantised weights read their input; auto: i8 (a scale for 32 columns) on "
                 "x86-64, else f32; i8-token: one scale for a token; b1 to b8: so many bit "
                 "planes where the weights are bipolar, else auto",
         .choices = activation_names()},
        activations);
    v.option({.name = "act-sparsity",
              .help = "auto: drop small activations where the model has thresholds for them "
                      "(prune --method chess); off: run it without",
              .choices = {"auto", "off"}},
             act_sparsity);
    v.option({.name = "gpu-layers",
              .help = "layers that --device cuda computes; -1: all. Those that do not fit into "
                      "vram= are streamed from host memory",
              .value = "N",
              .least = -1,
              .also = "ngl"},
             gpu_layers);
    v.option({.name = "repack", .help = "keep weights in the layout that is fastest here"}, repack);
    v.option({.name = "profile",
              .help = "say on stderr where a token's time goes: bytes and GB/s of each operation, "
                      "waiting of threads, dequantisation; --json has the figures, too",
              .changes_output = false},
             profile);
    v.option({.name = "machine",
              .help = "machine profile for predicted times, from --probe",
              .value = "FILE",
              .changes_output = false},
             machine);
}

}  // namespace thimble::run
