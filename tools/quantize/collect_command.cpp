// SPDX-License-Identifier: Apache-2.0
#include "collect_command.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "baseline.h"
#include "calib/calibration_text.h"
#include "calib/collector.h"
#include "common_options.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "cost/time_model.h"

namespace thimble {
namespace {

struct Options {
    std::string model, machine;
    ImatrixOutput output{.path = "imatrix.gguf"};
    CalibrationOptions text;
    bool process_output = false;

    void visit(OptionVisitor& v) {
        v.option({.name = "model",
                  .letter = 'm',
                  .help = "GGUF file, or Hugging Face directory",
                  .value = "PATH",
                  .required = true,
                  .is_input = true},
                 model);
        output.visit(v);
        v.option({.name = "process-output", .help = "also for output.weight"}, process_output);
        v.option({.name = "machine",
                  .help = "machine profile for predicted times, from run --probe",
                  .value = "FILE",
                  .changes_output = false},
                 machine);
        text.visit(v);
    }
};

class Collect {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }

    Plan plan(const cli::CommonOptions& common) {
        open();
        runner_.device = common.device == "ref" ? Device::kRef : Device::kCpu;
        runner_.isa = parse_isa(common.cpu_isa, "--cpu-isa");
        runner_.activations = Activations::kF32;
        runner_.kv = {.type_k = "f16", .type_v = "f16", .context_tokens = longest_};
        runner_.step_tokens = std::min<std::int64_t>(512, longest_);
        group_tokens_ = text_->tokens();
        const auto limit = Budget::parse(common.max_memory, "--max-memory")
                               .limit_bytes[static_cast<std::size_t>(Tier::kRam)];
        if (limit) fit(*limit);
        Plan plan = memory();
        predict_time(plan, common);
        return plan;
    }

    void run(cli::Context& context) {
        const std::string& output = options_.output.path;
        if (!options_.output.overwrite && std::filesystem::exists(output)) {
            throw Error(Exit::kCannotCreate, escaped(output, 1024), "the output exists",
                        "give --overwrite to replace it");
        }
        check_can_create(output);
        const bool tied = source_->spec().tied_embedding;
        if (options_.process_output && tied)
            log_warning("--process-output: the head is the embedding; there is no output.weight");
        Runner runner(std::move(source_), runner_, context.team);
        const auto windows = text_->windows();
        auto matrix = collect_importance(
            runner, context.team, windows,
            {.process_output = options_.process_output, .group_tokens = group_tokens_},
            [&](std::int64_t done, std::int64_t total) {
                context.progress("layers", done, total);
                return !context.interrupted();
            });
        if (!matrix) return;
        matrix->chunk_tokens = options_.text.context_tokens;
        matrix->chunk_count = text_->tokens() / options_.text.context_tokens;
        matrix->datasets = {std::filesystem::path(options_.text.file).filename().string()};
        options_.output.write(*matrix);
        context.report.set("output", output);
        context.report.set("entries", matrix->entries.size());
        context.report.set("windows", windows.size());
        context.report.set("tokens", text_->tokens());
        context.report.set("text_sha256", text_->sha256());
        if (!context.stdout_is_json()) context.print(output + "\n");
    }

  private:
    void open() {
        const std::vector<std::string> inputs = {options_.model, options_.text.file};
        refuse_overwriting_inputs(options_.output.path, inputs);
        source_ = ModelSource::open(options_.model);
        vocabulary_bytes_ = Tokenizer::predict_bytes(source_->file());
        const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(source_->file());
        text_.emplace(options_.text, *tokenizer);
        for (const auto& window : text_->windows())
            longest_ = std::max<std::int64_t>(longest_, std::ssize(window));
    }

    [[nodiscard]] Plan memory() const {
        Plan plan;
        Runner::add_to_plan(plan, *source_, runner_, longest_, 1, 0);
        add_collection_to_plan(plan, *source_, runner_.device, group_tokens_,
                               options_.process_output);
        plan.at(Tier::kRam, Purpose::kIo) += text_->bytes();
        const std::uint64_t later = plan.total_bytes(Tier::kRam);
        // The text is cut before the model is loaded.
        const std::uint64_t first =
            vocabulary_bytes_ + Tokenizer::scratch_bytes() + text_->peak_bytes();
        if (first > later) plan.at(Tier::kRam, Purpose::kVocabulary) += first - later;
        plan.at(Tier::kRam, Purpose::kVocabulary) += source_->file().metadata().memory_bytes();
        return plan;
    }

    [[nodiscard]] std::uint64_t needed() const {
        return memory().total_bytes(Tier::kRam) + kBaselineBytes;
    }

    // First the states of all windows, so that the weights are read once; then layers that stay.
    void fit(std::uint64_t limit_bytes) {
        if (needed() <= limit_bytes) return;
        const std::int64_t all = group_tokens_;
        runner_.weight_bytes = 0;
        if (needed() > limit_bytes) {
            group_tokens_ = longest_;
            if (needed() > limit_bytes) return;  // check_budget refuses
            std::int64_t fits = longest_, too_many = all;
            while (too_many - fits > 1) {
                group_tokens_ = fits + (too_many - fits) / 2;
                (needed() <= limit_bytes ? fits : too_many) = group_tokens_;
            }
            group_tokens_ = fits;
        }
        const std::uint64_t least = Runner::store_plan(*source_, runner_).held_bytes();
        runner_.weight_bytes = limit_bytes - needed() + least;
    }

    void predict_time(Plan& plan, const cli::CommonOptions& common) const {
        const cost::MachineProfile profile = cost::find_profile(options_.machine);
        const cost::Machine machine{profile,
                                    common.threads > 0 ? common.threads : default_threads(), false};
        const std::int64_t groups = (text_->tokens() + group_tokens_ - 1) / group_tokens_;
        const StorePlan store = Runner::store_plan(*source_, runner_);
        plan.seconds =
            cost::load_seconds(machine, source_->file().file_bytes()) +
            static_cast<double>(groups) * cost::load_seconds(machine, store.streamed_bytes) +
            static_cast<double>(text_->tokens()) / static_cast<double>(longest_) *
                cost::prefill_seconds(machine, source_->spec(), longest_, 0);
        plan.time_basis = "machine profile " + profile.name;
        plan.notes.push_back(std::to_string(text_->windows().size()) + " windows, " +
                             std::to_string(text_->tokens()) + " tokens, in " +
                             std::to_string(groups) + (groups == 1 ? " pass" : " passes") +
                             " over the layers");
        if (store.streamed_layers > 0) {
            plan.notes.push_back(std::to_string(store.streamed_layers) + " of " +
                                 std::to_string(source_->spec().layers) + " layers, " +
                                 format_bytes(store.streamed_bytes) +
                                 ", are read from disk in each pass");
        }
    }

    Options options_;
    std::unique_ptr<ModelSource> source_;
    std::optional<CalibrationText> text_;
    RunnerOptions runner_;
    std::int64_t longest_ = 1, group_tokens_ = 0;
    std::uint64_t vocabulary_bytes_ = 0;
};

}  // namespace

cli::Command collect_command() {
    const auto collect = std::make_shared<Collect>();
    cli::Command c;
    c.name = "collect-imatrix";
    c.flag = "--collect-imatrix";
    c.help = "make an importance matrix from a model and a text";
    c.options = [collect](OptionVisitor& v) { collect->visit(v); };
    c.plan = [collect](const cli::CommonOptions& common) { return collect->plan(common); };
    c.run = [collect](cli::Context& context) { collect->run(context); };
    return c;
}

}  // namespace thimble
