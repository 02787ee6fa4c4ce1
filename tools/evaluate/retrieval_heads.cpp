// SPDX-License-Identifier: Apache-2.0
#include "retrieval_heads.h"

#include "core/cpu.h"
#include "core/error.h"
#include "core/strings.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "model/fingerprint.h"

namespace thimble::evaluate {

void RetrievalHeads::visit(OptionVisitor& v) {
    v.group("Retrieval heads");
    v.option({.name = "model",
              .letter = 'm',
              .help = "GGUF file or Hugging Face directory",
              .value = "FILE",
              .required = true,
              .is_input = true},
             model_);
    v.option({.name = "file",
              .letter = 'f',
              .help = "text that the needles are put into",
              .value = "FILE",
              .required = true,
              .is_input = true},
             text_);
    v.option({.name = "output",
              .letter = 'o',
              .help = "write the sidecar, for --kv-policy compresskv:sidecar=FILE",
              .value = "FILE",
              .changes_output = false,
              .required = true,
              .is_output = true},
             output_);
    options_.visit(v);
}

void RetrievalHeads::open() {
    if (source_) return;
    const std::vector<std::string> inputs{model_, text_};
    refuse_overwriting_inputs(output_, inputs);
    check_can_create(output_);
    source_ = ModelSource::open(model_);
    if (source_->spec().attention.empty())
        throw Error(Exit::kUsage, "--find-retrieval-heads", "the model has no attention heads");
    tokenizer_ = Tokenizer::open(source_->file());
    if (options_.tokens <= source_->spec().context_tokens) return;
    throw Error(Exit::kUsage, "--needle-tokens",
                std::to_string(options_.tokens) + " tokens are more than the model's context of " +
                    std::to_string(source_->spec().context_tokens));
}

RunnerOptions RetrievalHeads::runner_options(Device device, Isa isa) const {
    RunnerOptions out;
    out.device = device;
    out.isa = isa;
    out.kv.context_tokens = options_.tokens;
    return out;
}

Plan RetrievalHeads::plan(const cli::CommonOptions& common) {
    open();
    Plan plan;
    Runner::add_to_plan(
        plan, *source_,
        runner_options(device_named(common.device), parse_isa(common.cpu_isa, "--cpu-isa")),
        options_.tokens, 1, 1);
    plan.at(Tier::kRam, Purpose::kVocabulary) +=
        Tokenizer::predict_bytes(source_->file()) + source_->file().metadata().memory_bytes();
    plan.at(Tier::kRam, Purpose::kOther) += Tokenizer::scratch_bytes();
    // A watched row: positions, logits and values of one head.
    const AttentionLayer& shape = source_->spec().attention.front().shape;
    plan.at(Tier::kRam, Purpose::kKv) +=
        static_cast<std::uint64_t>(options_.tokens + 64) * sizeof(float) *
        static_cast<std::uint64_t>(shape.kv_heads + shape.heads / shape.kv_heads + shape.head_dim);
    return plan;
}

void RetrievalHeads::run(cli::Context& context) {
    constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 28;
    std::string text = read_text_file(text_, kMostBytes);
    // A token is at least a byte, as a rule; no more text than the longest run needs is cut up.
    constexpr std::size_t kTokenBytes = 16;
    text = text.substr(0, static_cast<std::size_t>(options_.tokens) * kTokenBytes);
    while (!text.empty() && !is_utf8(text)) text.pop_back();
    const auto filler = tokenizer_->encode(text, {.add_special = false});
    if (std::ssize(filler) < options_.tokens) {
        throw Error(Exit::kUsage, escaped(text_),
                    "has " + std::to_string(filler.size()) +
                        " tokens, fewer than --needle-tokens " + std::to_string(options_.tokens),
                    "give a longer text or --needle-tokens " + std::to_string(filler.size()));
    }
    Runner runner(std::move(source_), runner_options(context.device, context.isa), context.team);
    eval::RetrievalResult result = eval::find_retrieval_heads(
        runner, *tokenizer_, filler, options_,
        [&](std::int64_t done, std::int64_t all) { context.progress("needles", done, all); });
    result.profile.model = fingerprint(runner.source());
    write_text_file(output_, result.profile.json().dump() + "\n", IfExists::kReplace);
    Json runs = Json::array();
    for (const eval::RetrievalRun& run : result.runs) {
        Json one = Json::object();
        one.set("tokens", run.tokens);
        one.set("depth", run.depth);
        one.set("recall", run.recall);
        runs.push(std::move(one));
    }
    context.report.set("runs", std::move(runs));
    context.report.set("counted", result.counted);
    if (!context.stdout_is_json()) {
        context.print("needles answered: " + std::to_string(result.counted) + " of " +
                      std::to_string(result.runs.size()) + "; " + output_ + " written\n");
    }
}

}  // namespace thimble::evaluate
