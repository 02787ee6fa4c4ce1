// SPDX-License-Identifier: Apache-2.0
#include "pipeline.h"

#include <sys/stat.h>
#include <algorithm>
#include <array>
#include <cstdio>

#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "cost/time_model.h"
#include "eval/facts.h"
#include "eval/report.h"
#include "eval/scoring.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "io/sha256.h"
#include "ops/ops.h"

namespace thimble::evaluate {
namespace {

constexpr std::uint64_t kMostTextBytes = std::uint64_t{1} << 32;

}  // namespace

void Pipeline::open() {
    if (model_) return;
    if (options.text.empty() && !options.bench) {
        throw Error(Exit::kUsage, "--file", "no text to evaluate on",
                    "give -f FILE, or --bench to measure speed only");
    }
    if (!options.reference.empty() && options.text.empty())
        throw Error(Exit::kUsage, "--reference", "needs a text to compare on", "give -f FILE");
    const std::vector<std::string> inputs = {options.model, options.reference, options.text};
    if (!options.output.empty()) refuse_overwriting_inputs(options.output, inputs);
    model_ = ModelSource::open(options.model);
    if (!options.reference.empty()) reference_ = ModelSource::open(options.reference);
    if (reference_ && reference_->spec().vocab != model_->spec().vocab) {
        throw Error(Exit::kUsage, options.reference,
                    "has a vocabulary of " + std::to_string(reference_->spec().vocab) +
                        " tokens, the model of " + std::to_string(model_->spec().vocab),
                    "a reference must share the model's vocabulary");
    }
    if (options.text == "-") stdin_text_ = read_stdin(kMostTextBytes);
    if (options.kv.context_tokens == 0) options.kv.context_tokens = model_->spec().context_tokens;
    if (options.kv.context_tokens > model_->spec().context_tokens) {
        log_warning("--ctx-size " + std::to_string(options.kv.context_tokens) +
                    " is more than the model was trained with, " +
                    std::to_string(model_->spec().context_tokens));
    }
}

RunnerOptions Pipeline::runner_options(Device device, Isa isa) const {
    RunnerOptions out;
    out.device = device;
    out.isa = isa;
    out.activations = activations_named(options.activations);
    out.step_tokens = options.batch;
    out.kv = options.kv;
    if (options.bench) {
        out.kv.context_tokens = std::max(
            {out.kv.context_tokens, options.speed.prompt_tokens, options.speed.decode_tokens});
    }
    return out;
}

std::uint64_t Pipeline::text_bytes() const {
    if (options.text.empty()) return 0;
    return stdin_text_ ? stdin_text_->size() : File(options.text).bytes();
}

// Every token stands for at least one byte, but for BOS and a leading space.
std::int64_t Pipeline::most_windows() const {
    const auto most = static_cast<std::int64_t>(text_bytes() + 2) / options.kv.context_tokens;
    return options.chunks > 0 ? std::min(options.chunks, most) : most;
}

void Pipeline::add_models(Plan& plan, Device device, Isa isa) const {
    const RunnerOptions runner = runner_options(device, isa);
    const std::int64_t context = options.kv.context_tokens;
    const std::int64_t bench =
        options.bench ? std::max(options.speed.prompt_tokens, options.speed.decode_tokens) : 0;
    const std::int64_t rows =
        options.text.empty()
            ? 1
            : eval::rows_per_piece(model_->spec(), runner, context, reference_ != nullptr);
    const std::int64_t tokens = options.text.empty() ? bench : std::max(context - 1, bench);
    for (const ModelSource* source : {model_.get(), reference_.get()}) {
        if (source != nullptr)
            plan.at(Tier::kRam, Purpose::kVocabulary) += source->file().metadata().memory_bytes();
    }
    Runner::add_to_plan(plan, *model_, runner, tokens, 1, rows);
    if (reference_) Runner::add_to_plan(plan, *reference_, runner, context - 1, 1, rows);
}

void Pipeline::add_text(Plan& plan, Device device, Isa isa) const {
    const std::uint64_t bytes = text_bytes();
    for (const ModelSource* source : {model_.get(), reference_.get()}) {
        if (source != nullptr)
            plan.at(Tier::kRam, Purpose::kVocabulary) += Tokenizer::predict_bytes(source->file());
    }
    plan.at(Tier::kRam, Purpose::kOther) += Tokenizer::scratch_bytes();
    plan.at(Tier::kRam, Purpose::kIo) += bytes + (bytes + 2) * sizeof(Token);
    const std::int64_t context = options.kv.context_tokens;
    const std::int64_t rows = eval::rows_per_piece(model_->spec(), runner_options(device, isa),
                                                   context, reference_ != nullptr);
    eval::add_scoring_to_plan(plan, model_->spec(), device, context, most_windows(), rows,
                              reference_ != nullptr);
}

void Pipeline::predict_time(Plan& plan, const cli::CommonOptions& common) const {
    const cost::MachineProfile profile = cost::find_profile(options.profile);
    const cost::Machine machine{profile, common.threads > 0 ? common.threads : default_threads(),
                                false};
    const std::int64_t context = options.kv.context_tokens;
    for (const ModelSource* source : {model_.get(), reference_.get()}) {
        if (source == nullptr) continue;
        plan.seconds += cost::load_seconds(machine, source->file().file_bytes());
        if (options.text.empty()) continue;
        plan.seconds += static_cast<double>(most_windows()) *
                        cost::prefill_seconds(machine, source->spec(), context - 1,
                                              eval::Windows::scored_rows(context));
    }
    if (options.bench) {
        const auto runs = static_cast<double>(options.speed.repeats + 1);
        plan.seconds +=
            runs * cost::prefill_seconds(machine, model_->spec(), options.speed.prompt_tokens, 1);
        plan.seconds += runs * cost::decode_seconds(machine, model_->file().file_bytes(),
                                                    options.speed.decode_tokens);
    }
    plan.time_basis = "machine profile " + profile.name;
}

Plan Pipeline::memory(Device device, Isa isa) const {
    Plan plan;
    add_models(plan, device, isa);
    if (!options.text.empty()) add_text(plan, device, isa);
    std::uint64_t& io = plan.at(Tier::kRam, Purpose::kIo);
    io = std::max<std::uint64_t>(io, kHashBufferBytes);  // the models' hashes come first
    return plan;
}

// The first of these that fits: what changes no figure, then what does, then what gives some up.
std::string Pipeline::remedy(std::uint64_t limit_bytes, Device device, Isa isa) {
    const EvaluateOptions wanted = options;
    std::string change, found;
    std::uint64_t bytes = 0;
    const auto fits = [&](const std::string& next) {
        change += (change.empty() ? "" : " ") + next;
        bytes = memory(device, isa).total_bytes(Tier::kRam) + baseline_bytes_;
        if (found.empty() && bytes <= limit_bytes) found = change + " needs " + format_bytes(bytes);
    };
    options.batch = std::min<std::int64_t>(options.batch, 64);
    fits("--batch-size 64");
    if (KvEngine::can_store(model_->spec().attention, LayoutId::k_q8_0)) {
        options.kv.type_k = options.kv.type_v = "q8_0";
        fits("--cache-type-k q8_0 --cache-type-v q8_0");
    }
    if (reference_) {
        std::unique_ptr<ModelSource> kept = std::move(reference_);
        fits("without --reference");
        reference_ = std::move(kept);
    }
    options = wanted;
    return !found.empty() ? found
                          : "no change of options fits: even " + change + " needs " +
                                format_bytes(bytes) + "; use a model of fewer bits";
}

Plan Pipeline::plan(const cli::CommonOptions& common) {
    open();
    const Device device = common.device == "ref" ? Device::kRef : Device::kCpu;
    const Isa isa = parse_isa(common.cpu_isa, "--cpu-isa");
    Plan plan = memory(device, isa);
    predict_time(plan, common);
    predicted_bytes_ = plan.total_bytes(Tier::kRam) + baseline_bytes_;
    const auto limit = Budget::parse(common.max_memory, "--max-memory")
                           .limit_bytes[static_cast<std::size_t>(Tier::kRam)];
    if (limit && predicted_bytes_ > *limit) plan.cheapest_change = remedy(*limit, device, isa);
    return plan;
}

void Pipeline::check_reference_tokenizer(const Tokenizer& tokenizer, std::string_view text) const {
    constexpr std::size_t kSampleBytes = 1 << 16;
    std::size_t cut = std::min(text.size(), kSampleBytes);
    while (cut < text.size() && cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80)
        --cut;
    const std::string_view sample = text.substr(0, cut);
    const std::unique_ptr<Tokenizer> other = Tokenizer::open(reference_->file());
    if (tokenizer.encode(sample, {}) == other->encode(sample, {})) return;
    throw Error(Exit::kUsage, options.reference, "splits the text into other tokens than the model",
                "a reference must share the model's vocabulary");
}

eval::Windows Pipeline::read_text(eval::TextFacts& facts) const {
    const std::string text =
        stdin_text_ ? *stdin_text_ : read_text_file(options.text, kMostTextBytes);
    const Charge charge(Tier::kRam, Purpose::kIo, text.size());
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(model_->file());
    if (reference_) check_reference_tokenizer(*tokenizer, text);
    facts = {stdin_text_ ? "-" : eval::basename_of(options.text), sha256_of(text), text.size(), 0};
    std::optional<Token> bos;
    std::vector<Token> tokens = eval::window_tokens(*tokenizer, text, bos);
    facts.tokens = static_cast<std::int64_t>(tokens.size());
    return {std::move(tokens), options.kv.context_tokens, options.chunks, bos,
            stdin_text_ ? "stdin" : options.text};
}

void Pipeline::fill_settings(eval::Record& record, const cli::Context& context,
                             const RunnerOptions& runner) const {
    eval::Settings& s = record.settings;
    s.context_tokens = options.kv.context_tokens;
    s.step_tokens = runner.step_tokens;
    s.cache_type_k = options.kv.type_k;
    s.cache_type_v = options.kv.type_v;
    s.kv_policy = options.kv.policy;
    Exec exec;
    exec.device = runner.device, exec.isa = runner.isa, exec.activations = runner.activations;
    s.activations = describe_activations(exec);
    s.device = context.common.device;
    s.isa = name(context.isa);
    s.cpu = cpu_model_name();
    s.threads = context.team.threads();
}

void Pipeline::run(cli::Context& context) {
    eval::Record record;
    const RunnerOptions runner = runner_options(context.device, context.isa);
    fill_settings(record, context, runner);
    record.model = eval::model_facts(*model_);
    if (reference_) record.reference = eval::model_facts(*reference_);
    std::optional<eval::Windows> windows;
    if (!options.text.empty()) windows.emplace(read_text(record.text.emplace()));

    Runner model(std::move(model_), runner, context.team);
    std::unique_ptr<Runner> reference;
    if (reference_)
        reference = std::make_unique<Runner>(std::move(reference_), runner, context.team);
    if (windows) {
        record.settings.windows = windows->count();
        const std::int64_t rows = eval::rows_per_piece(
            model.spec(), runner, options.kv.context_tokens, reference != nullptr);
        const auto scores = eval::score_text(
            model, reference.get(), *windows, rows, [&](std::int64_t done, double rate) {
                context.progress("windows", done, windows->count(), rate, "tok/s");
                return !context.interrupted();
            });
        if (!scores) return;
        record.perplexity = scores->perplexity;
        record.divergence = scores->divergence;
        record.seconds = scores->seconds;
    }
    reference.reset();
    if (options.bench) record.speed = eval::measure_speed(model, options.speed);
    finish(context, record);
}

void Pipeline::finish(cli::Context& context, eval::Record& record) const {
    record.peak = {predicted_bytes_, process_memory().peak_resident_bytes};
    const Json json = eval::to_json(record);
    context.report.set("result", json);
    if (!options.output.empty())
        write_text_file(options.output, json.dump(2) + "\n", IfExists::kReplace);
    if (!context.stdout_is_json()) context.print(eval::report_text({&record, 1}));
}

void run_report(const ReportOptions& options, cli::Context& context) {
    std::vector<eval::Record> records;
    for (const std::string& path : options.results)
        records.push_back(eval::record_from_json(read_json_file(path), path));
    const Json json = eval::report_json(records);
    context.report.set("report", json);
    const std::string text = eval::report_text(records);
    if (!options.output.empty()) {
        refuse_overwriting_inputs(options.output, options.results);
        write_text_file(options.output,
                        options.output.ends_with(".json") ? json.dump(2) + "\n" : text,
                        IfExists::kReplace);
    } else if (!context.stdout_is_json()) {
        context.print(text);
    }
}

}  // namespace thimble::evaluate
