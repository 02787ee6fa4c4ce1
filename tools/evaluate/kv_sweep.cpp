// SPDX-License-Identifier: Apache-2.0
#include "kv_sweep.h"

#include <algorithm>

#include "core/cpu.h"
#include "core/error.h"
#include "core/strings.h"
#include "eval/synthetic.h"
#include "eval/windows.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "kv/chain.h"

namespace thimble::evaluate {
namespace {

constexpr std::uint64_t kMostTextBytes = std::uint64_t{1} << 28;

// Every policy by itself; those that need scores after SnapKV.
std::vector<std::string> all_policies() {
    std::vector<std::string> out;
    for (const auto& type : kv_policies().items()) {
        const std::string name(type->name());
        if (name == "full" || name == "compresskv") continue;  // the latter needs a file
        const unsigned duties = KvChain::parse_link(name, "--policy")->duties();
        constexpr unsigned kWithScores = KvPolicy::kLayers | KvPolicy::kHeads | KvPolicy::kMerge;
        const bool needs_scores = (duties & kWithScores) != 0 && (duties & KvPolicy::kScore) == 0;
        const bool needs_budget = duties == KvPolicy::kChannels;
        out.push_back(needs_scores || needs_budget ? "snapkv+" + name : name);
    }
    return out;
}

}  // namespace

void KvSweepToolOptions::visit(OptionVisitor& v) {
    v.group("Sweep");
    v.option({.name = "model",
              .letter = 'm',
              .help = "GGUF file or Hugging Face directory",
              .value = "FILE",
              .required = true,
              .is_input = true},
             model);
    v.option({.name = "file",
              .letter = 'f',
              .help = "text: each sample is a prompt and what follows it",
              .value = "FILE",
              .required = true,
              .is_input = true},
             file);
    v.option({.name = "policy",
              .help = "policy or chain without its budget, repeatable; default: every one",
              .value = "NAME[:KEY=VALUE,...][+...]"},
             policies);
    v.option({.name = "budget",
              .help = "what is kept, repeatable: 25%, tokens or bytes; default: 50%, 25%, 10%",
              .value = "SIZE"},
             budgets);
    v.option({.name = "prompt", .help = "tokens of a prompt", .least = 16}, sweep.prompt_tokens);
    v.option({.name = "answer", .help = "tokens after it that are scored, plus one", .least = 2},
             sweep.answer_tokens);
    v.option({.name = "texts", .help = "samples, one after the other in the text", .least = 1},
             sweep.texts);
    v.option({.name = "parts", .help = "parts of the answer with figures of their own", .least = 1},
             sweep.buckets);
    v.option({.name = "needles",
              .help = "numbers to find in a made text as long as the prompt",
              .value = "N",
              .least = 0,
              .most = static_cast<double>(eval::city_count())},
             sweep.needles);
    v.option({.name = "output",
              .letter = 'o',
              .help = "results as JSON",
              .value = "FILE",
              .is_output = true},
             output);
    v.option(
        {.name = "svg", .help = "a drawing of the results", .value = "FILE", .is_output = true},
        svg);
    v.group("Computation");
    v.option({.name = "batch-size",
              .letter = 'b',
              .help = "most tokens per forward step",
              .value = "N",
              .changes_output = false,
              .least = 1,
              .most = 1 << 20},
             batch);
    v.option({.name = "activations",
              .help = "how quantised weights read their input",
              .choices = activation_names()},
             activations);
    v.option({.name = "cache-type-k",
              .help = "type of cached keys",
              .choices = {"f32", "f16", "bf16", "q8_0"},
              .also = "ctk"},
             type_k);
    v.option({.name = "cache-type-v",
              .help = "type of cached values",
              .choices = {"f32", "f16", "bf16", "q8_0"},
              .also = "ctv"},
             type_v);
}

RunnerOptions KvSweepPipeline::runner_options(const std::string& policy) const {
    RunnerOptions out;
    out.device = device_;
    out.isa = isa_;
    out.activations = activations_named(options.activations);
    out.step_tokens = options.batch;
    out.kv = {.policy = policy, .type_k = options.type_k, .type_v = options.type_v};
    // Room for a model that repeats its prompt, too.
    out.kv.context_tokens =
        std::max(source_->spec().context_tokens,
                 2 * options.sweep.prompt_tokens + options.sweep.answer_tokens + 64);
    return out;
}

void KvSweepPipeline::open(const cli::CommonOptions& common) {
    if (source_) return;
    device_ = device_named(common.device);
    isa_ = parse_isa(common.cpu_isa, "--cpu-isa");
    options.sweep.policies = options.policies.empty() ? all_policies() : options.policies;
    if (!options.budgets.empty()) options.sweep.budgets = options.budgets;
    eval::KvSweep::check(options.sweep);
    const std::vector<std::string> inputs = {options.model, options.file};
    for (const std::string& output : {options.output, options.svg})
        if (!output.empty()) refuse_overwriting_inputs(output, inputs);
    source_ = ModelSource::open(options.model);
    tokenizer_ = Tokenizer::open(source_->file());
    std::optional<Token> bos;
    const std::string text = read_text_file(options.file, kMostTextBytes);
    const std::vector<Token> tokens = eval::window_tokens(*tokenizer_, text, bos);
    const std::int64_t each = options.sweep.prompt_tokens + options.sweep.answer_tokens;
    if (std::ssize(tokens) < each * options.sweep.texts) {
        throw Error(Exit::kUsage, escaped(options.file, 1024),
                    "has " + std::to_string(tokens.size()) + " tokens, and " +
                        std::to_string(options.sweep.texts) + " samples take " +
                        std::to_string(each * options.sweep.texts),
                    "lower --texts or --prompt");
    }
    for (std::int64_t i = 0; i < options.sweep.texts; ++i) {
        const auto begin = tokens.begin() + i * each;
        texts_.emplace_back(begin, begin + each);
        if (bos) texts_.back().front() = *bos;
    }
    if (options.sweep.needles > 0) {
        needles_ = std::make_unique<eval::KvNeedles>(*tokenizer_, options.sweep.prompt_tokens,
                                                     options.sweep.needles);
    }
}

Plan KvSweepPipeline::plan(const cli::CommonOptions& common) {
    open(common);
    const std::int64_t prompt = options.sweep.prompt_tokens;
    const std::int64_t most_tokens =
        std::max(prompt + options.sweep.answer_tokens, needles_ ? needles_->most_tokens() : 0);
    // Beside the prompt's sequence, what is left of it under a budget, and a branch of that.
    std::int64_t kept = 0;
    for (const std::string& text : options.sweep.budgets) {
        const KvBudget budget = KvBudget::parse(text, "--budget");
        kept = std::max(kept, std::min(budget.tokens(prompt, token_bytes()), prompt));
    }
    const std::int64_t fork_tokens =
        std::min(kept + most_tokens - prompt + 2 * ops::kAttentionTile, most_tokens);
    Plan most;
    for (const std::string& policy : options.sweep.policies) {
        Plan plan;
        const RunnerOptions runner = runner_options(eval::KvSweep::with_budget(policy, prompt));
        Runner::add_to_plan(plan, *source_, runner, {most_tokens, prompt}, 1, 1);
        plan.at(Tier::kRam, Purpose::kKv) +=
            2 * KvEngine::predict_bytes(source_->spec().state_layers(), runner.kv, fork_tokens,
                                        KvPlacement{device_});
        if (plan.total_bytes(Tier::kRam) > most.total_bytes(Tier::kRam)) most = plan;
    }
    most.at(Tier::kRam, Purpose::kLogits) +=
        eval::KvSweep::reference_bytes(options.sweep, source_->spec().vocab);
    // The model is opened anew for each policy.
    most.at(Tier::kRam, Purpose::kVocabulary) +=
        Tokenizer::predict_bytes(source_->file()) + 2 * source_->file().metadata().memory_bytes();
    most.at(Tier::kRam, Purpose::kOther) += Tokenizer::scratch_bytes();
    return most;
}

// Bytes of a token's keys and values in the full cache.
std::uint64_t KvSweepPipeline::token_bytes() const {
    const KvOptions kv = runner_options("full").kv;
    const std::int64_t prompt = options.sweep.prompt_tokens;
    return KvEngine::predict_bytes(source_->spec().state_layers(), kv, prompt,
                                   KvPlacement{device_}) /
           static_cast<std::uint64_t>(prompt);
}

void KvSweepPipeline::run(cli::Context& context) {
    const auto make_runner = [&](const std::string& policy) {
        return std::make_unique<Runner>(ModelSource::open(options.model), runner_options(policy),
                                        context.team);
    };
    const auto encode = [&](const std::string& text) {
        EncodeText how;
        how.add_special = false;
        return tokenizer_->encode(text, how);
    };
    eval::KvSweep sweep(options.sweep, std::move(texts_), needles_.get(), make_runner, encode);
    const auto rows = sweep.run([&](std::string_view what, std::int64_t done, std::int64_t total) {
        context.progress(what, done, total);
        return !context.interrupted();
    });
    const Json json = eval::kv_sweep_json(options.sweep, rows);
    context.report.set("kv_sweep", json);
    if (!context.stdout_is_json()) context.print(eval::kv_sweep_table(options.sweep, rows));
    if (!options.output.empty())
        write_text_file(options.output, json.dump(1) + "\n", IfExists::kReplace);
    if (!options.svg.empty())
        write_text_file(options.svg, eval::kv_sweep_svg(rows, options.model), IfExists::kReplace);
}

}  // namespace thimble::evaluate
