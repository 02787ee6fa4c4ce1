// SPDX-License-Identifier: Apache-2.0
#include "pipeline.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/json_lines.h"
#include "model/device_budget.h"
#include "model/random_model.h"
#include "ops/gradients.h"
#include "train/output.h"

namespace thimble::train {
namespace {

constexpr const char* kDeviceNote =
    "on the CUDA device: weights, parameters with their gradients, what a layer keeps; in host "
    "memory: the optimizer's parameters, gradients and state, checkpoints";

LossKind loss_named(const std::string& name) {
    if (name == "chunked") return LossKind::kChunked;
    return name == "dense" ? LossKind::kDense : LossKind::kCut;
}

std::string directory_of(const std::string& path) {
    const std::string directory = std::filesystem::path(path).parent_path().string();
    return directory.empty() ? "." : directory;
}

std::string describe(const DataCounts& counts) {
    std::string text = std::to_string(counts.samples) + " samples of " +
                       std::to_string(counts.tokens) + " tokens, " +
                       std::to_string(counts.targets) + " of them learnt";
    for (const auto& [count, what] :
         {std::pair(counts.split, "split"), std::pair(counts.truncated, "truncated"),
          std::pair(counts.dropped, "dropped"),
          std::pair(counts.without_targets, "without anything to learn")})
        if (count > 0) text += "; " + std::to_string(count) + ' ' + what;
    return text;
}

Json step_json(const StepReport& r) {
    Json json = Json::object();
    json.set("step", r.step);
    json.set("loss", r.loss);
    json.set("learning_rate", r.learning_rate);
    json.set("gradient_norm", r.gradient_norm);
    json.set("epoch", r.epoch);
    json.set("tokens", r.tokens);
    json.set("targets", r.targets);
    json.set("seconds", r.seconds);
    json.set("tokens_per_second", static_cast<double>(r.tokens) / r.seconds);
    return json;
}

Json validation_json(const ValidationReport& r) {
    Json json = Json::object();
    json.set("step", r.step);
    json.set("validation_loss", r.loss);
    json.set("targets", r.targets);
    return json;
}

}  // namespace

void Pipeline::open(const cli::CommonOptions& common) {
    if (options.output.empty()) throw Error(Exit::kUsage, "--output", "no output", "-o PATH");
    LoopOptions& loop = options.loop;
    const Isa isa = parse_isa(common.cpu_isa, "--cpu-isa");
    loop.trainer.isa = isa;
    loop.trainer.device = device_named(common.device);
    loop.trainer.threads =
        common.threads > 0 ? static_cast<int>(common.threads) : dist::default_threads_of(ranks());
    loop.state = options.state.empty() ? options.output + ".state" : options.state;
    if (!loop.state.ends_with(".safetensors")) loop.state += ".safetensors";
    loop.trainer.seed = static_cast<std::uint64_t>(common.seed);
    loop.trainer.pass.loss = loss_named(options.loss);
    loop.trainer.bf16 = options.precision == "bf16" ||
                        (options.precision == "auto" &&
                         (loop.trainer.device == Device::kCuda || ops::has_bf16_products(isa)));
    loop.trainer.offload = Offload::parse(options.offload, "--offload");
    if (!options.offload_directory.empty() && !loop.trainer.offload.any())
        throw Error(Exit::kUsage, "--offload-dir", "nothing is offloaded",
                    "--offload optimizer=disk");
    loop.trainer.offload_directory = options.offload_directory.empty()
                                         ? directory_of(options.output)
                                         : options.offload_directory;
    open_model(loop.trainer.seed);
    check_output(result(), *make_method(loop.trainer.method, "--method"));
    if (loop.data.context_tokens > source_->spec().context_tokens) {
        log_warning("--ctx-size " + std::to_string(loop.data.context_tokens) +
                    " is more than the model was trained with, " +
                    std::to_string(source_->spec().context_tokens));
    }
    loop_ = std::make_unique<Loop>(*source_, *tokenizer_, loop);
}

void Pipeline::open_model(std::uint64_t seed) {
    const bool random = options.init == "random";
    if (!random && options.model.empty())
        throw Error(Exit::kUsage, "--model", "no model given", "-m FILE, or --init random");
    if (random && (options.config.empty() || !options.model.empty())) {
        throw Error(Exit::kUsage, "--init",
                    "a random model is described by --model-config, not by -m",
                    "--init random --model-config config.json");
    }
    if (!random && !(options.config.empty() && options.tokenizer.empty())) {
        throw Error(Exit::kUsage, options.config.empty() ? "--tokenizer" : "--model-config",
                    "is for random models", "add --init random");
    }
    source_ = random ? std::make_unique<ModelSource>(random_model(options.config, seed))
                     : ModelSource::open(options.model);
    if (!source_->thresholds().empty()) {
        throw Error(Exit::kUsage, escaped(options.model, 1024),
                    "drops small activations by thresholds, which training would outdate",
                    "train the model that it was pruned from, then prune --method chess");
    }
    const auto other = options.tokenizer.empty() ? nullptr : ModelFile::open(options.tokenizer);
    const ModelFile& file = other ? *other : source_->file();
    tokenizer_ = Tokenizer::open(file);
    tokenizer_bytes_ = Tokenizer::predict_bytes(file);
    if (tokenizer_->size() > source_->spec().vocab) {
        throw Error(Exit::kBadData, "--tokenizer",
                    "has " + std::to_string(tokenizer_->size()) + " tokens, the model " +
                        std::to_string(source_->spec().vocab));
    }
}

ResultTarget Pipeline::result() const {
    ResultTarget target{.source = *source_, .tokenizer = *tokenizer_, .path = options.output};
    target.container = options.container;
    target.type = options.outtype;
    target.merge = options.merge, target.replace = options.force;
    target.new_tokenizer = options.init == "random";
    target.step.tool = "offload-train";
    target.step.version = cli::version();
    target.step.options = [copy = options](OptionVisitor& v) mutable { copy.visit(v); };
    for (const DataFile& file : loop_ ? loop_->data().train.files() : std::vector<DataFile>{})
        target.inputs.push_back(file.path);
    return target;
}

Plan Pipeline::plan(const cli::CommonOptions& common) {
    open(common);
    Plan plan;
    loop_->add_to_plan(plan);
    plan.at(Tier::kRam, Purpose::kVocabulary) +=
        tokenizer_bytes_ + source_->file().metadata().memory_bytes();
    plan.at(Tier::kRam, Purpose::kOther) += Tokenizer::scratch_bytes();
    add_output_to_plan(plan, result(), *make_method(options.loop.trainer.method, "--method"));
    plan.notes.push_back(describe(loop_->data().train.counts()) + "; " +
                         std::to_string(loop_->total_steps()) + " steps");
    if (ranks().size() > 1) {
        plan.notes.push_back(std::to_string(ranks().size()) +
                             " ranks: memory and --max-memory are those of each");
        plan.at(Tier::kRam, Purpose::kBaseline) += kMpiBytes;
    }
    Plan whole = plan;
    whole.at(Tier::kRam, Purpose::kBaseline) += kBaselineBytes;
    Budget budget = Budget::parse(common.max_memory, "--max-memory");
    auto& vram = budget.limit_bytes[static_cast<std::size_t>(Tier::kVram)];
    const bool stated = vram.has_value(), cuda = common.device == "cuda";
    if (cuda) vram = vram_budget(budget);
    plan.cheapest_change = loop_->cheapest_change(whole, budget);
    if (cuda) {
        plan.notes.emplace_back(kDeviceNote);
        if (plan.cheapest_change.empty()) plan.cheapest_change = "--device cpu";
        if (!stated) check_budget(plan, budget);  // against what is free there now
    }
    return plan;
}

void Pipeline::run(cli::Context& context) {
    log_info(describe(loop_->data().train.counts()) + "; " + std::to_string(loop_->total_steps()) +
             " steps");
    const Charge mpi(Tier::kRam, Purpose::kBaseline, ranks().size() > 1 ? kMpiBytes : 0);
    loop_->start(context.team, context.device, context.isa);
    JsonLines metrics(
        options.metrics, [&](std::string_view line) { context.print(line); },
        loop_->trainer().steps() > 0 ? JsonLines::IfThere::kAppend : JsonLines::IfThere::kReplace);
    Json validations = Json::array();
    std::int64_t tokens = 0;
    double loss = 0, seconds = 0;  // of the last step; of all
    LoopEvents events;
    events.step = [&](const StepReport& r) {
        tokens += r.tokens;
        seconds += r.seconds;
        loss = r.loss;
        metrics.write(step_json(r));
        context.progress("loss " + std::to_string(r.loss).substr(0, 6), r.step, r.steps,
                         static_cast<double>(r.tokens) / r.seconds, "tokens/s");
        return !context.interrupted();
    };
    events.validated = [&](const ValidationReport& r) {
        metrics.write(validation_json(r));
        validations.push(validation_json(r));
        char text[96];
        std::snprintf(text, sizeof(text), "step %lld: validation loss %.4f over %lld tokens",
                      static_cast<long long>(r.step), r.loss, static_cast<long long>(r.targets));
        log_info(text);
    };
    events.saved = [&](std::int64_t step) {
        log_info("state after step " + std::to_string(step) + " saved");
    };
    const bool whole = loop_->run(events);
    if (ranks().rank() > 0) return;
    context.report.set("ranks", std::int64_t{ranks().size()});
    context.report.set("steps", loop_->trainer().steps());
    context.report.set("loss", loss);
    context.report.set("validations", std::move(validations));
    context.report.set("trained_parameters", loop_->trainer().parameters().elements());
    report(context, seconds, tokens);
    report_tier(context);
    if (!whole) {
        throw Error(Exit::kAgain, options.loop.state,
                    "stopped after step " + std::to_string(loop_->trainer().steps()) + " of " +
                        std::to_string(loop_->total_steps()) + "; the state is saved",
                    "run the same command again to go on");
    }
    write_output(result(), loop_->trainer());
    if (!options.keep_state) std::filesystem::remove(options.loop.state);
    if (!context.stdout_is_json() && options.metrics != "-") context.print(options.output + "\n");
}

void Pipeline::report_tier(cli::Context& context) const {
    const storage::StorageTier* tier = loop_->trainer().tier();
    if (tier == nullptr) return;
    const storage::TierCounters counters = tier->counters();
    Json json = Json::object();
    json.set("engine", tier->engine());
    json.set("bytes_read", counters.bytes_read);
    json.set("bytes_written", counters.bytes_written);
    json.set("busy_seconds", counters.busy_seconds);
    json.set("waited_seconds", counters.waited_seconds);
    json.set("bytes_per_second", counters.bytes_per_second());
    json.set("hidden", counters.hidden());
    context.report.set("disk", std::move(json));
    char text[192];
    std::snprintf(text, sizeof(text),
                  "disk (%s): %s read, %s written at %.2f GB/s; %.0f %% of that time hidden behind "
                  "computation",
                  tier->engine().c_str(), format_bytes(counters.bytes_read).c_str(),
                  format_bytes(counters.bytes_written).c_str(), counters.bytes_per_second() / 1e9,
                  100 * counters.hidden());
    log_info(text);
}

void Pipeline::report(cli::Context& context, double seconds, std::int64_t tokens) const {
    const double rate = static_cast<double>(tokens) / std::max(seconds, 1e-9);
    context.report.set("seconds", seconds);
    context.report.set("tokens", tokens);
    context.report.set("tokens_per_second", rate);
    char text[96];
    std::snprintf(text, sizeof(text), "%lld tokens in %.1f s: %.0f tokens/s",
                  static_cast<long long>(tokens), seconds, rate);
    log_info(text);
}

}  // namespace thimble::train
