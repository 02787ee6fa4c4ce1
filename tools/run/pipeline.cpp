// SPDX-License-Identifier: Apache-2.0
#include "pipeline.h"

#include <unistd.h>

#include <algorithm>

#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "cost/time_model.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "kv/cache_file.h"
#include "model/device_budget.h"
#include "model/fingerprint.h"
#include "model/thresholds.h"
#include "profile.h"

namespace thimble::run {
namespace {

constexpr std::uint64_t kMostPromptBytes = std::uint64_t{1} << 28;

// {"tokens": the sequence, "positions": of each layer, of each K/V head}.
std::string held_tokens(Runner& runner, const Session& session) {
    Json json = Json::object(), tokens = Json::array(), layers = Json::array();
    for (const Token token : session.tokens()) tokens.push(static_cast<std::int64_t>(token));
    const auto& attention = runner.spec().attention;
    for (std::size_t layer = 0; layer < attention.size(); ++layer) {
        Json heads = Json::array();
        for (int head = 0; head < attention[layer].shape.kv_heads; ++head) {
            std::vector<std::int32_t> positions =
                runner.kv().positions(session.sequence(), static_cast<int>(layer), head);
            std::sort(positions.begin(), positions.end());
            Json list = Json::array();
            for (const std::int32_t p : positions) list.push(static_cast<std::int64_t>(p));
            heads.push(std::move(list));
        }
        layers.push(std::move(heads));
    }
    json.set("tokens", std::move(tokens));
    json.set("positions", std::move(layers));
    return json.dump();
}

}  // namespace

std::string Pipeline::read_prompt() const {
    if (!options.prompt.empty() && options.prompt != "-") return options.prompt;
    const bool from_file = !options.file.empty() && options.file != "-";
    std::string text =
        from_file ? read_text_file(options.file, kMostPromptBytes) : read_stdin(kMostPromptBytes);
    if (text.ends_with('\n')) text.pop_back();
    if (!is_utf8(text))
        throw Error(Exit::kBadData, from_file ? escaped(options.file) : "stdin", "is not UTF-8");
    return text;
}

void Pipeline::open() {
    const bool given = !options.prompt.empty() || !options.file.empty();
    if (options.model.empty()) throw Error(Exit::kUsage, "--model", "no model given", "-m FILE");
    if (!options.prompt.empty() && !options.file.empty())
        throw Error(Exit::kUsage, "--file", "the prompt is given twice", "drop -p or -f");
    conversation_ = options.interactive || (options.chat && !given && isatty(0) == 1);
    if (conversation_ && given)
        throw Error(Exit::kUsage, "--interactive", "takes its messages from stdin",
                    "drop -p or -f");
    if (!options.chat && !conversation_ && !options.system.empty())
        throw Error(Exit::kUsage, "--system", "is part of a chat", "add --chat");
    if (!conversation_ && !given && isatty(0) == 1)
        throw Error(Exit::kUsage, "--prompt", "no prompt", "-p TEXT, -f FILE or a pipe");

    if (options.workers.workers > 0 && (conversation_ || options.generate.max_tokens < 1 ||
                                        !options.kv_save.empty() || !options.kv_load.empty())) {
        throw Error(Exit::kUsage, "--workers", "answer one prompt, with a limit of tokens each",
                    "give -p TEXT -n N and no --kv-save or --kv-load");
    }
    options.generate.subtasks.check(options.kv);
    if (options.generate.subtasks.on() && options.workers.workers > 0)
        throw Error(Exit::kUsage, "--workers", "keep their subtasks in the cache",
                    "leave out --subtask-open or --workers");
    if (!options.kv_load.empty() && (options.chat || conversation_))
        throw Error(Exit::kUsage, "--kv-load", "goes on from a plain text, not in a chat",
                    "leave out --chat");
    if (!options.kv_save.empty() && conversation_)
        throw Error(Exit::kUsage, "--kv-save", "saves one prompt, not a conversation",
                    "give -p TEXT");
    check_kv_path(options.kv_save, "--kv-save");
    check_kv_path(options.kv_load, "--kv-load");
    source_ = ModelSource::open(options.model);
    if (options.act_sparsity == "off") source_->drop_thresholds();
    adapters_ = open_adapters(options.adapters, *source_);
    options.repeat.check(source_->spec());
    options.workers.check(source_->spec());
    tokenizer_ = Tokenizer::open(source_->file());
    if (options.kv.context_tokens == 0) options.kv.context_tokens = source_->spec().context_tokens;
    capacity_ = KvEngine::capacity_tokens(source_->spec().state_layers(), options.kv);
    if (options.kv.context_tokens > source_->spec().context_tokens) {
        log_warning("--ctx-size " + std::to_string(options.kv.context_tokens) +
                    " is more than the model was trained with, " +
                    std::to_string(source_->spec().context_tokens));
    }
    if (conversation_) return;
    const std::string text = options.repeat.apply(read_prompt());
    if (options.chat) {
        std::vector<ChatMessage> messages;
        if (!options.system.empty()) messages.push_back({"system", options.system});
        messages.push_back({"user", text});
        prompt_ = encode_chat(*tokenizer_, options.chat_template, messages, true);
    } else {
        EncodeText how;
        how.parse_special = options.parse_special;
        prompt_ = tokenizer_->encode(text, how);
        if (!options.kv_load.empty())
            follow_saved(encode_rest(*tokenizer_, text, options.parse_special));
    }
    Session::check_prompt(std::ssize(prompt_), capacity_);
}

// The prompt after what a saved cache holds, unless it begins with that.
void Pipeline::follow_saved(std::vector<Token> text) {
    saved_ = read_kv_head(options.kv_load).tokens;
    const bool repeats =
        prompt_.size() > saved_.size() && std::equal(saved_.begin(), saved_.end(), prompt_.begin());
    if (repeats) return;
    if (text.empty()) {
        throw Error(Exit::kUsage, "--prompt", "nothing follows the saved text",
                    "give what goes on from it: -p TEXT");
    }
    prompt_ = saved_;
    prompt_.insert(prompt_.end(), text.begin(), text.end());
}

KvFileHead Pipeline::kv_head(const ModelSource& source, std::vector<Token> tokens) const {
    std::string model = fingerprint(source);
    for (const std::string& path : options.adapters.lora) model += " " + path;
    for (const std::string& scale : options.adapters.lora_scale) model += " " + scale;
    return KvFileHead::of(model, options.kv, std::move(tokens));
}

RunnerOptions Pipeline::runner_options(Device device, Isa isa) const {
    RunnerOptions out;
    out.device = device;
    out.isa = isa;
    out.activations = activations_named(options.activations);
    out.repack = options.repack;
    out.weight_bytes = weight_bytes_;
    out.kv = options.kv;
    out.adapters = adapters_;
    out.cuda = {.layers = options.gpu_layers, .vram_bytes = vram_bytes_, .tokens = most_tokens()};
    // Memory for a step is not taken for more tokens than there are.
    const bool rereads = options.generate.subtasks.on();
    out.step_tokens = conversation_
                          ? options.batch
                          : std::min(options.batch, rereads ? most_tokens() : std::ssize(prompt_));
    out.step_tokens = std::max(out.step_tokens, options.workers.workers);
    if (options.workers.workers > 0) out.logit_rows = options.workers.workers;
    return out;
}

std::int64_t Pipeline::most_tokens() const {
    const std::int64_t wanted = options.generate.max_tokens;
    if (conversation_ || wanted < 0) return capacity_;
    // The last token chosen is not fed back.
    return std::min(capacity_, std::ssize(prompt_) + std::max<std::int64_t>(wanted - 1, 0));
}

// Where subtasks leave, the context does not end an answer.
std::int64_t Pipeline::answer_tokens() const {
    if (options.generate.subtasks.on())
        return std::max<std::int64_t>(options.generate.max_tokens - 1, 0);
    return most_tokens() - std::ssize(prompt_);
}

Plan Pipeline::memory(const RunnerOptions& runner, std::int64_t tokens) const {
    Plan plan;
    const std::int64_t answer = std::max<std::int64_t>(options.generate.max_tokens, 0);
    const std::int64_t prompt = conversation_ ? tokens - answer : std::ssize(prompt_);
    Runner::add_to_plan(plan, *source_, runner,
                        {tokens, std::clamp<std::int64_t>(prompt, 1, tokens)}, 1, 1);
    if (const std::int64_t workers = options.workers.workers; workers > 0) {
        const std::int64_t block = Workers::block_tokens(options.generate, options.workers);
        std::uint64_t& kv = plan.at(Tier::kRam, Purpose::kKv);
        for (const std::int64_t held : {block, workers * block}) {
            kv += static_cast<std::uint64_t>(held == block ? workers : 1) *
                  KvEngine::predict_bytes(source_->spec().state_layers(), runner.kv,
                                          std::min(held, runner.kv.context_tokens),
                                          KvPlacement{runner.device});
        }
        plan.at(Tier::kRam, Purpose::kLogits) +=
            static_cast<std::uint64_t>(workers) *
            (static_cast<std::uint64_t>(source_->spec().vocab) * sizeof(float) +
             Sampler::bytes(options.generate.sampling, source_->spec().vocab));
    }
    // The tokenizer's tables, and the header they were read from, which stays open.
    plan.at(Tier::kRam, Purpose::kVocabulary) +=
        Tokenizer::predict_bytes(source_->file()) + source_->file().metadata().memory_bytes();
    plan.at(Tier::kRam, Purpose::kOther) += Tokenizer::scratch_bytes();
    plan.at(Tier::kRam, Purpose::kLogits) +=
        Sampler::bytes(options.generate.sampling, source_->spec().vocab);
    if (options.profile)
        plan.at(Tier::kRam, Purpose::kOther) += Buffer::charged_bytes(StepProfile::kMemoryBytes);
    return plan;
}

void Pipeline::predict_time(Plan& plan, const cli::CommonOptions& common) const {
    const std::int64_t new_tokens = answer_tokens();
    if (conversation_ || options.generate.max_tokens < 0) return;
    const cost::MachineProfile profile = cost::find_profile(options.machine);
    const cost::Machine machine{profile, common.threads > 0 ? common.threads : default_threads(),
                                false};
    const std::uint64_t moved =
        plan.at(Tier::kRam, Purpose::kWeights) + plan.at(Tier::kRam, Purpose::kKv);
    plan.seconds = cost::load_seconds(machine, source_->file().file_bytes()) +
                   cost::prefill_seconds(machine, source_->spec(), std::ssize(prompt_), 1) +
                   cost::decode_seconds(machine, moved, new_tokens);
    plan.time_basis = "machine profile " + profile.name;
}

// What would make the plan fit: first what changes no result, then what does.
std::string Pipeline::remedy(std::uint64_t limit_bytes, RunnerOptions runner) const {
    const auto needed = [&](std::int64_t tokens) {
        return memory(runner, tokens).total_bytes(Tier::kRam) + kBaselineBytes;
    };
    const std::int64_t tokens = most_tokens();
    const auto offer = [&](const std::string& change) {
        return change + " needs " + format_bytes(needed(tokens));
    };
    runner.step_tokens = std::min<std::int64_t>(runner.step_tokens, 64);
    if (needed(tokens) <= limit_bytes) return offer("--batch-size 64");
    if (KvEngine::can_store(source_->spec().attention, LayoutId::k_q8_0)) {
        const KvOptions kv = runner.kv;
        runner.kv.type_k = runner.kv.type_v = "q8_0";
        if (needed(tokens) <= limit_bytes) return offer("--batch-size 64 -ctk q8_0 -ctv q8_0");
        runner.kv = kv;
    }

    const std::int64_t least = std::max<std::int64_t>(std::ssize(prompt_), 1);
    if (needed(least) > limit_bytes && Runner::store_plan(*source_, runner).all_blocks > 0)
        return "with one block of each matrix the model needs " + format_bytes(needed(least));
    if (needed(least) > limit_bytes)
        return "the model alone needs " + format_bytes(needed(least)) + ": use one of fewer bits";
    std::int64_t fits = least, too_many = std::min<std::int64_t>(tokens, 1 << 30);
    while (too_many - fits > 1) {
        const std::int64_t middle = fits + (too_many - fits) / 2;
        (needed(middle) <= limit_bytes ? fits : too_many) = middle;
    }
    if (conversation_ || options.generate.max_tokens < 0)
        return "--batch-size 64 --ctx-size " + std::to_string(fits) + " fits";
    return "--batch-size 64 -n " + std::to_string(fits - least + 1) + " fits";
}

Plan Pipeline::plan(const cli::CommonOptions& common) {
    if (options.profile && !options.probe.empty())
        throw Error(Exit::kUsage, "--profile", "times a model's steps, not the machine",
                    "leave out --probe");
    if (!options.probe.empty()) return plan_probe(options);
    if (options.profile && common.device == "cuda")
        throw Error(Exit::kUsage, "--profile", "times operations on the CPU",
                    "leave out --device cuda");
    open();
    const Budget budget = Budget::parse(common.max_memory, "--max-memory");
    if (common.device == "cuda") vram_bytes_ = vram_budget(budget);
    const RunnerOptions runner =
        runner_options(device_named(common.device), parse_isa(common.cpu_isa, "--cpu-isa"));
    Plan plan = memory(runner, most_tokens());
    predict_time(plan, common);
    if (common.device == "cuda") {
        plan.notes.push_back(Runner::describe_placement(*source_, runner));
        log_info(plan.notes.back());
        plan.cheapest_change = vram_remedy(*source_, runner, budget);
    }
    if (!source_->thresholds().empty()) {
        plan.notes.push_back(describe_thresholds(*source_, runner.device, runner.repack));
        log_info(plan.notes.back());
    }
    const auto limit = budget.limit_bytes[static_cast<std::size_t>(Tier::kRam)];
    const StorePlan whole = Runner::store_plan(*source_, runner);
    sizes_.other_bytes = plan.total_bytes(Tier::kRam) + kBaselineBytes - whole.resident_bytes;
    if (limit) sizes_.most_bytes = *limit;
    if (limit && plan.total_bytes(Tier::kRam) + kBaselineBytes > *limit)
        stream_layers(plan, *limit, runner, common);
    return plan;
}

// Where not all weights fit: as many layers as do, the others from disk for every step; where that
// does not fit either, a remedy.
void Pipeline::stream_layers(Plan& plan, std::uint64_t limit_bytes, RunnerOptions runner,
                             const cli::CommonOptions& common) {
    const RunnerOptions whole = runner;
    runner.weight_bytes = 0;
    const Plan streamed = memory(runner, most_tokens());
    const std::uint64_t least = streamed.total_bytes(Tier::kRam) + kBaselineBytes;
    if (least > limit_bytes) {
        const bool saves = streamed.total_bytes(Tier::kRam) < plan.total_bytes(Tier::kRam);
        if (saves) plan = streamed;
        plan.cheapest_change = remedy(limit_bytes, saves ? runner : whole);
        return;
    }
    runner.weight_bytes = limit_bytes - least + Runner::store_plan(*source_, runner).held_bytes();
    weight_bytes_ = runner.weight_bytes;
    const double resident_seconds = plan.seconds;
    plan = memory(runner, most_tokens());
    predict_time(plan, common);
    const StorePlan store = Runner::store_plan(*source_, runner);
    if (store.all_blocks > 0) {
        plan.notes.push_back(std::to_string(store.blocks) + " of " +
                             std::to_string(store.all_blocks) + " blocks of weights are loaded");
        log_info(plan.notes.back());
        return;
    }
    const cost::MachineProfile profile = cost::find_profile(options.machine);
    const double pass = cost::load_seconds({profile, 1, false}, store.streamed_bytes);
    if (resident_seconds > 0) plan.seconds += pass * static_cast<double>(answer_tokens() + 1);
    const std::string note =
        std::to_string(store.streamed_layers) + " of " + std::to_string(source_->spec().layers) +
        " layers, " + format_bytes(store.streamed_bytes) + ", are read from disk for every step: " +
        std::to_string(static_cast<std::int64_t>(pass * 1000)) + " ms each by machine profile " +
        profile.name;
    plan.notes.push_back(note);
    log_warning("the weights do not fit: " + note);
}

void Pipeline::run(cli::Context& context) {
    if (!options.probe.empty()) return run_probe(options, context);
    const RunnerOptions runner_options = this->runner_options(context.device, context.isa);
    const ModelSpec& spec = source_->spec();
    Json model = Json::object();
    model.set("architecture", spec.architecture);
    model.set("name", spec.name);
    model.set("file_bytes", source_->file().file_bytes());
    context.report.set("model", model);

    Runner runner(std::move(source_), runner_options, context.team);
    std::optional<StepProfile> profile;
    if (options.profile) profile.emplace(runner, context.team);
    generate(context, runner);
    if (profile) profile->finish(context);
}

void Pipeline::generate(cli::Context& context, Runner& runner) {
    if (options.workers.workers > 0)
        return answer_together(context, runner, *tokenizer_, prompt_, options);
    Session session(runner, *tokenizer_, options.generate,
                    static_cast<std::uint64_t>(context.common.seed));
    if (!options.kv_load.empty()) {
        session.adopt(load_sequence(runner.kv(), kv_head(runner.source(), {}), options.kv_load),
                      saved_);
    }
    SizeControl size(runner, sizes_);
    if (conversation_) {
        converse(context, session, *tokenizer_, options, size);
        return;
    }
    if (Json now = size.state(); now.is_object()) context.report.set("size", std::move(now));
    GenerateStats stats;
    std::string text;
    if (options.generate.max_tokens == 0 && !(options.kv_save.empty() && options.kv_dump.empty())) {
        session.read(prompt_);
    } else {  // a file gets the text alone
        text = answer(context, session, prompt_, isatty(1) == 1, stats);
    }
    if (!options.kv_save.empty()) {
        save_sequence(runner.kv(), session.sequence(), kv_head(runner.source(), session.tokens()),
                      options.kv_save);
    }
    if (!options.kv_dump.empty())
        write_text_file(options.kv_dump, held_tokens(runner, session) + "\n", IfExists::kReplace);
    context.report.set("text", text);
    if (options.generate.subtasks.on())
        context.report.set("kept_text", without(text, stats.pruned_text));
    context.report.set("stats", stats_json(stats));
    context.report.set("kv_bytes", runner.kv().bytes());
}

}  // namespace thimble::run
