// SPDX-License-Identifier: Apache-2.0
#include "pipeline.h"

#include <sys/stat.h>

#include <algorithm>
#include <csignal>

#include "cli/console.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "cost/time_model.h"
#include "eval/facts.h"
#include "eval/scoring.h"
#include "eval/windows.h"
#include "io/atomic_file.h"
#include "io/lines.h"
#include "io/sha256.h"
#include "kv/chain.h"
#include "model/device_budget.h"
#include "model/thresholds.h"
#include "ops/ops.h"

namespace thimble::evaluate {
namespace {

// "perplexity:file=..." of a file name.
std::string text_task(const std::string& file) {
    std::string spec = "perplexity:file=";
    for (const char c : file) {
        if (c == ',' || c == '\\') spec += '\\';
        spec += c;
    }
    return spec;
}

}  // namespace

void Pipeline::check_options() const {
    if (suite_.empty() && !options.bench) {
        throw Error(Exit::kUsage, "--file", "nothing to evaluate on",
                    "give -f FILE or --task NAME:..., or --bench to measure speed only");
    }
    if (!options.reference.empty() && !suite_.has_text())
        throw Error(Exit::kUsage, "--reference", "needs a text to compare on", "give -f FILE");
    if (options.shots > 0 && !suite_.takes_shots())
        throw Error(Exit::kUsage, "--num-fewshot", "no task here takes examples");
    if (options.limit > 0 && !suite_.has_other())
        throw Error(Exit::kUsage, "--limit", "there is no task that it limits",
                    "--chunks limits texts");
    if (options.chunks > 0 && !suite_.has_text())
        throw Error(Exit::kUsage, "--chunks", "there is no text that it limits",
                    "--limit limits other tasks");
    if (options.repeat.times > 1 && !suite_.has_other())
        throw Error(Exit::kUsage, "--prompt-repeat", "no task here has a prompt");
    const KvChain chain = KvChain::parse(options.kv.policy, "--kv-policy");
    if (suite_.has_text() && (chain.edits() || chain.of(KvPolicy::kBlocks) != nullptr ||
                              chain.of(KvPolicy::kFilter) != nullptr)) {
        throw Error(Exit::kUsage, "--kv-policy",
                    "'" + escaped(options.kv.policy) +
                        "' acts when a prompt ends, and a text that is scored is all prompt",
                    "--kv-sweep measures it on what follows a prompt; tasks with answers do, too");
    }
    const auto& files = options.texts;
    if (std::count(files.begin(), files.end(), "-") > 1)
        throw Error(Exit::kUsage, "--file", "stdin can be read once only");
}

void Pipeline::open_models() {
    model_ = ModelSource::open(options.model);
    if (options.act_sparsity == "off") model_->drop_thresholds();
    options.repeat.check(model_->spec());
    adapters_ = open_adapters(options.adapters, *model_);
    if (!options.reference.empty()) reference_ = ModelSource::open(options.reference);
    if (reference_ && options.act_sparsity == "off") reference_->drop_thresholds();
    if (reference_ && reference_->spec().vocab != model_->spec().vocab) {
        throw Error(Exit::kUsage, options.reference,
                    "has a vocabulary of " + std::to_string(reference_->spec().vocab) +
                        " tokens, the model of " + std::to_string(model_->spec().vocab),
                    "a reference must share the model's vocabulary");
    }
    const std::int64_t trained = model_->spec().context_tokens;
    if (options.kv.context_tokens == 0) options.kv.context_tokens = trained;
    const bool windows = suite_.has_text() || options.bench;
    if (windows && options.kv.context_tokens > trained) {
        log_warning("--ctx-size " + std::to_string(options.kv.context_tokens) +
                    " is more than the model was trained with, " + std::to_string(trained));
    }
}

void Pipeline::open(const cli::CommonOptions& common) {
    if (model_) return;
    device_ = device_named(common.device);
    if (device_ == Device::kCuda) {
        vram_bytes_ = vram_budget(Budget::parse(common.max_memory, "--max-memory")) /
                      (options.reference.empty() ? 1 : 2);
    }
    isa_ = parse_isa(common.cpu_isa, "--cpu-isa");
    for (const std::string& file : options.texts) suite_.add(text_task(file), "--file");
    for (const std::string& spec : options.tasks) suite_.add(spec, "--task");
    check_options();
    check_outputs();
    open_models();
    if (!suite_.empty()) open_tasks();
    open_gates();
}

void Pipeline::check_outputs() const {
    std::vector<std::string> inputs = suite_.inputs();
    inputs.insert(inputs.end(), {options.model, options.reference, options.baseline});
    inputs.insert(inputs.end(), options.adapters.lora.begin(), options.adapters.lora.end());
    for (const std::string& output :
         {options.output, options.samples, options.lm_eval, journal_path()})
        if (!output.empty()) refuse_overwriting_inputs(output, inputs);
}

void Pipeline::open_tasks() {
    tokenizer_ = Tokenizer::open(model_->file());
    setting_ = {.spec = &model_->spec(),
                .reference = reference_ ? &reference_->file() : nullptr,
                .tokenizer = tokenizer_.get(),
                .runner = runner_options(),
                .windows_limit = options.chunks,
                .samples_limit = options.limit,
                .shots = options.shots,
                .repeat = options.repeat};
    suite_.open(setting_);
}

// Gates on figures that there will not be are refused before any work.
void Pipeline::open_gates() {
    if (!options.baseline.empty())
        baseline_ = eval::record_from_json(read_json_file(options.baseline),
                                           escaped(options.baseline, 1024));
    eval::Record declared;
    suite_.declare(declared);
    if (options.bench) declared.speed.emplace();
    const auto figures = eval::figures_of(declared, baseline_ ? &*baseline_ : nullptr);
    for (const std::string& text : options.asserts)
        (void)eval::check_gate(gates_.emplace_back(text, "--assert"), figures);
}

// As texts are scored, by both models.
RunnerOptions Pipeline::runner_options() const {
    RunnerOptions out;
    out.device = device_;
    out.isa = isa_;
    out.activations = activations_named(options.activations);
    out.step_tokens = options.batch;
    out.kv = options.kv;
    out.cuda = {.layers = options.gpu_layers, .vram_bytes = vram_bytes_};
    return out;
}

std::int64_t Pipeline::most_tokens() const {
    const std::int64_t bench =
        options.bench ? options.speed.depth_tokens +
                            std::max(options.speed.prompt_tokens, options.speed.decode_tokens)
                      : 0;
    return std::max({suite_.needs().sequence_tokens, bench, std::int64_t{1}});
}

// A context for the longest sequence of any task and of the speed test.
RunnerOptions Pipeline::model_options() const {
    RunnerOptions out = runner_options();
    const std::int64_t windows = suite_.has_text() ? options.kv.context_tokens : 0;
    out.kv.context_tokens = std::max(windows, most_tokens());
    out.weight_bytes = weight_bytes_;
    out.adapters = adapters_;
    return out;
}

RunnerOptions Pipeline::reference_options() const {
    RunnerOptions out = runner_options();
    out.weight_bytes = reference_weight_bytes_;
    // A model that has no bit planes reads its input as it would unasked, on every device.
    const auto in_planes = [](const SourceTensor& t) { return t.layout() == LayoutId::k_bipolar; };
    if (plane_bits(out.activations) != 0 && reference_ &&
        std::ranges::none_of(reference_->tensors(), in_planes))
        out.activations = Activations::kAuto;
    return out;
}

void Pipeline::add_models(Plan& plan) const {
    const eval::TaskNeeds needs = suite_.needs();
    const std::int64_t rows = std::max<std::int64_t>(needs.logit_rows, 1);
    for (const ModelSource* source : {model_.get(), reference_.get()}) {
        if (source == nullptr) continue;
        std::uint64_t& vocabulary = plan.at(Tier::kRam, Purpose::kVocabulary);
        vocabulary += source->file().metadata().memory_bytes();
        if (!suite_.empty()) vocabulary += Tokenizer::predict_bytes(source->file());
    }
    if (needs.state_tokens > 0) {
        for (const ModelSource* source : {model_.get(), reference_.get()})
            if (source != nullptr)
                plan.at(Tier::kRam, Purpose::kActivations) +=
                    eval::WindowScorer::state_bytes(source->spec(), device_, needs.state_tokens);
    }
    Runner::add_to_plan(plan, *model_, model_options(), most_tokens(), 1, rows);
    if (!reference_) return;
    std::uint64_t& kv = plan.at(Tier::kRam, Purpose::kKv);
    const std::uint64_t of_model = kv;
    Runner::add_to_plan(plan, *reference_, reference_options(), options.kv.context_tokens - 1, 1,
                        rows);
    // In groups the two take turns, each with an empty cache.
    if (needs.state_tokens > 0) kv = std::max(of_model, kv - of_model);
}

void Pipeline::predict_time(Plan& plan, const cli::CommonOptions& common) const {
    const cost::MachineProfile profile = cost::find_profile(options.machine);
    const cost::Machine machine{profile, common.threads > 0 ? common.threads : default_threads(),
                                false};
    const std::int64_t context = options.kv.context_tokens;
    const auto windows = [&](const ModelSource& source, double tokens) {
        return tokens / static_cast<double>(context) *
               cost::prefill_seconds(machine, source.spec(), context - 1,
                                     eval::scored_rows(context, eval::Scored::kSecondHalf));
    };
    plan.seconds += cost::load_seconds(machine, model_->file().file_bytes()) +
                    windows(*model_, suite_.predicted_tokens());
    if (reference_) {
        plan.seconds += cost::load_seconds(machine, reference_->file().file_bytes()) +
                        windows(*reference_, suite_.compared_tokens());
    }
    if (options.bench) {
        const auto runs = static_cast<double>(options.speed.repeats + 1);
        plan.seconds +=
            cost::prefill_seconds(machine, model_->spec(), options.speed.depth_tokens, 1);
        plan.seconds +=
            runs * cost::prefill_seconds(machine, model_->spec(), options.speed.prompt_tokens, 1);
        plan.seconds += runs * cost::decode_seconds(machine, model_->file().file_bytes(),
                                                    options.speed.decode_tokens);
    }
    const auto passes = static_cast<double>(suite_.passes());
    plan.seconds +=
        passes *
        cost::load_seconds(machine, Runner::store_plan(*model_, model_options()).streamed_bytes);
    if (reference_) {
        plan.seconds +=
            passes *
            cost::load_seconds(machine,
                               Runner::store_plan(*reference_, reference_options()).streamed_bytes);
    }
    plan.time_basis = "machine profile " + profile.name;
}

Plan Pipeline::memory() const {
    Plan plan;
    add_models(plan);
    if (!suite_.empty()) {
        suite_.add_to_plan(plan);
        plan.at(Tier::kRam, Purpose::kOther) += Tokenizer::scratch_bytes();
        if (!journal_path().empty()) plan.at(Tier::kRam, Purpose::kIo) += line_reader_bytes();
    }
    std::uint64_t& io = plan.at(Tier::kRam, Purpose::kIo);
    io = std::max<std::uint64_t>(io, kHashBufferBytes);  // the files' hashes come first
    return plan;
}

Plan Pipeline::plan(const cli::CommonOptions& common) {
    open(common);
    Plan plan = memory();
    predict_time(plan, common);
    if (device_ == Device::kCuda) {
        plan.notes.push_back(Runner::describe_placement(*model_, model_options()));
        plan.cheapest_change =
            vram_remedy(*model_, model_options(), Budget::parse(common.max_memory, "--max-memory"));
    }
    predicted_bytes_ = plan.total_bytes(Tier::kRam) + baseline_bytes_;
    const auto limit = Budget::parse(common.max_memory, "--max-memory")
                           .limit_bytes[static_cast<std::size_t>(Tier::kRam)];
    if (limit && predicted_bytes_ > *limit) stream_layers(plan, *limit, common);
    return plan;
}

void Pipeline::fill_settings(eval::Record& record, const cli::Context& context) const {
    eval::Settings& s = record.settings;
    s.context_tokens = options.kv.context_tokens;
    s.step_tokens = options.batch;
    s.cache_type_k = options.kv.type_k;
    s.cache_type_v = options.kv.type_v;
    s.kv_policy = options.kv.policy;
    s.prompt_repeat = options.repeat.times;
    Exec exec;
    exec.device = device_, exec.isa = isa_;
    exec.activations = activations_named(options.activations);
    s.activations = describe_activations(exec);
    if (model_->spec().input_norm_epsilon > 0) s.activations = "codes of 8 bits, the model's own";
    if (!model_->thresholds().empty())
        s.activations += "; " + describe_thresholds(*model_, device_, true);
    s.device = context.common.device;
    s.isa = name(context.isa);
    s.cpu = cpu_model_name();
    s.threads = context.team.threads();
}

// Beside the results; none where they go to a pipe or are not kept.
std::string Pipeline::journal_path() const {
    const std::string& beside = options.output.empty() ? options.samples : options.output;
    if (beside.empty() || suite_.empty()) return {};
    struct stat info {};
    if (::stat(beside.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) return {};
    return beside + ".journal";
}

Json Pipeline::journal_about(const eval::Record& record) const {
    const eval::Settings& s = record.settings;
    Json about = Json::object(), adapters = Json::array();
    about.set("version", cli::version());
    about.set("model", record.model.sha256);
    for (const eval::AdapterFacts& adapter : record.model.adapters)
        adapters.push(adapter.sha256 + " " + Json(adapter.scale).dump());
    if (!record.model.adapters.empty()) about.set("adapters", std::move(adapters));
    if (record.reference) about.set("reference", record.reference->sha256);
    about.set("context_tokens", s.context_tokens);
    about.set("step_tokens", s.step_tokens);
    about.set("cache_type_k", s.cache_type_k);
    about.set("cache_type_v", s.cache_type_v);
    about.set("kv_policy", s.kv_policy);
    if (s.prompt_repeat > 1) about.set("prompt_repeat", s.prompt_repeat);
    about.set("activations", s.activations);
    about.set("device", s.device);
    about.set("isa", s.isa);
    about.set("tasks", suite_.identity());
    return about;
}

// Whether all is scored; else a signal came.
bool Pipeline::score(cli::Context& context, eval::Record& record) {
    if (!suite_.empty()) suite_.load();
    if (const std::string path = journal_path(); !path.empty()) {
        journal_ = std::make_unique<eval::Journal>(path, journal_about(record));
        const std::int64_t resumed = suite_.resume(*journal_);
        if (resumed > 0) {
            log_info("going on from " + escaped(path, 1024) + ": " + std::to_string(resumed) +
                     " of " + std::to_string(suite_.samples()) + " samples are done");
        }
        context.report.set("resumed_samples", resumed);
    }
    Runner model(std::move(model_), model_options(), context.team);
    std::unique_ptr<Runner> reference;
    if (reference_) {
        reference =
            std::make_unique<Runner>(std::move(reference_), reference_options(), context.team);
    }
    const eval::TaskRun run = {model, reference.get(), [&] { return context.interrupted(); }};
    const auto progress = [&](std::string_view task, std::int64_t done, std::int64_t total) {
        context.progress(task, done, total);
    };
    std::uint64_t streamed_bytes = 0;
    const auto release = [&] {
        if (reference) streamed_bytes += reference->streamed_bytes();
        reference.reset();
    };
    if (!suite_.run(run, journal_.get(), progress, release)) return false;
    suite_.results(record);
    if (options.bench) {
        record.speed = eval::measure_speed(model, options.speed);
        if (device_ == Device::kCpu && !options.machine.empty()) {
            record.speed->limit_bytes_per_second = cost::find_profile(options.machine)
                                                       .at(context.team.threads())
                                                       .read_bytes_per_second;
        }
    }
    context.report.set("streamed_bytes", streamed_bytes + model.streamed_bytes());
    return true;
}

void Pipeline::run(cli::Context& context) {
    eval::Record record;
    fill_settings(record, context);
    record.model = eval::model_facts(*model_);
    record.model.adapters = eval::adapter_facts(adapters_);
    if (reference_) record.reference = eval::model_facts(*reference_);
    if (score(context, record)) return finish(context, record);
    // Ctrl-C ends as everywhere; a scheduler is told to run the job again.
    if (!journal_ || cli::seen_signal() == SIGINT) return;
    throw Error(Exit::kAgain, escaped(journal_->path(), 1024),
                "holds the first " + std::to_string(suite_.done()) + " of " +
                    std::to_string(suite_.samples()) + " samples",
                "run the same command again to go on");
}

}  // namespace thimble::evaluate
