// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include "eval/task.h"

namespace thimble::evaluate {

void EvaluateOptions::visit(OptionVisitor& v) {
    v.group("Evaluation");
    v.option({.name = "model",
              .letter = 'm',
              .help = "model to evaluate: GGUF file or Hugging Face directory",
              .value = "FILE",
              .required = true,
              .is_input = true},
             model);
    adapters.visit(v);
    v.option({.name = "file",
              .letter = 'f',
              .help = "text for perplexity; - for stdin; several are also averaged",
              .value = "FILE",
              .is_input = true},
             texts);
    v.option({.name = "task",
              .help = "what else to evaluate on; --list names them",
              .value = "NAME:KEY=VALUE,...",
              .inline_forms = eval::task_forms},
             tasks);
    v.option(
        {.name = "reference",
         .help = "model whose distribution the KL divergence is against, of the same vocabulary",
         .value = "FILE",
         .is_input = true},
        reference);
    v.option({.name = "chunks",
              .help = "windows of each text to use; 0: all",
              .value = "N",
              .least = 0,
              .most = 1e9},
             chunks);
    v.option({.name = "limit",
              .help = "samples of each other task to use; 0: all",
              .value = "N",
              .least = 0,
              .most = 1e9},
             limit);
    v.option({.name = "num-fewshot",
              .help = "solved examples before each sample, from the task's fewshot=FILE",
              .value = "N",
              .least = 0,
              .most = 1000},
             shots);
    repeat.visit(v);
    visit_results(v);
    visit_speed(v);
    v.group("Computation");
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
    v.option({.name = "batch-size",
              .letter = 'b',
              .help = "most tokens per forward step",
              .value = "N",
              .least = 1,
              .most = 1 << 20},
             batch);
    v.option({.name = "machine",
              .help = "machine profile for predicted times, from run --probe; with --bench the "
                      "result says, too, how near decoding comes to its read bandwidth",
              .value = "FILE",
              .is_input = true},
             machine);
    kv.visit(v);
}

void EvaluateOptions::visit_results(OptionVisitor& v) {
    v.group("Results");
    v.option({.name = "output",
              .letter = 'o',
              .help = "write the result as JSON, for evaluate report",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             output);
    v.option({.name = "samples",
              .help = "keep the outcome of each sample, as JSONL",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             samples);
    v.option({.name = "lm-eval",
              .help = "write the result as lm-evaluation-harness writes it",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             lm_eval);
    v.option({.name = "baseline",
              .help = "earlier result to show beside, and for gates as baseline.NAME",
              .value = "FILE",
              .is_input = true},
             baseline);
    v.option({.name = "assert",
              .help = "exit with 3 unless it holds: 'kld_mean<0.03', 'ppl<=baseline.ppl*1.01'",
              .value = "GATE"},
             asserts);
}

void EvaluateOptions::visit_speed(OptionVisitor& v) {
    v.group("Speed");
    v.option({.name = "bench", .help = "measure prefill and decode speed, as llama-bench does"},
             bench);
    v.option({.name = "bench-prompt",
              .letter = 'p',
              .help = "tokens of the prompt that is timed",
              .value = "N",
              .least = 0,
              .most = 1 << 20},
             speed.prompt_tokens);
    v.option({.name = "bench-decode",
              .letter = 'n',
              .help = "single tokens that are timed",
              .value = "N",
              .least = 0,
              .most = 1 << 20},
             speed.decode_tokens);
    v.option({.name = "bench-depth",
              .letter = 'd',
              .help = "tokens in the cache before each of both",
              .value = "N",
              .least = 0,
              .most = 1 << 20},
             speed.depth_tokens);
    v.option({.name = "bench-repeats",
              .letter = 'r',
              .help = "repetitions; the median counts",
              .value = "N",
              .least = 1,
              .most = 10000},
             speed.repeats);
}

void CompareOptions::visit(OptionVisitor& v) {
    v.group("Comparison");
    v.option({.name = "results",
              .help = "two files that evaluate -o wrote",
              .value = "FILE",
              .required = true,
              .is_input = true,
              .positional = true},
             results);
    v.option({.name = "output",
              .letter = 'o',
              .help = "write the comparison to a file; JSON if its name ends in .json",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             output);
}

void ReportOptions::visit(OptionVisitor& v) {
    v.group("Report");
    v.option({.name = "results",
              .help = "files that evaluate -o wrote; speeds and perplexities of one model may "
                      "come from two of them, and reports of quantize (--json) add how its file "
                      "was made",
              .value = "FILE",
              .required = true,
              .is_input = true,
              .positional = true},
             results);
    v.option(
        {.name = "sort",
         .help = "figure that orders the lines, the least first: model.bits_per_weight, "
                 "kld_mean, speed.decode_tokens_per_second, ...; without it they stand as given",
         .value = "FIGURE"},
        sort);
    v.option({.name = "output",
              .letter = 'o',
              .help = "write the report to a file; .html, .md, .csv and .json choose its form",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             output);
}

}  // namespace thimble::evaluate
