// SPDX-License-Identifier: Apache-2.0
#include "inspect_command.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "baseline.h"
#include "calib/calibration_text.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/figures.h"
#include "core/log.h"
#include "prune/activation_sparsity.h"
#include "prune/inspect.h"

namespace thimble {
namespace {

class Inspect {
  public:
    Inspect() { text_options_.chunks = 10; }
    void visit(OptionVisitor& v) {
        v.option({.name = "model",
                  .letter = 'm',
                  .help = "GGUF file (the first of a split one) or Hugging Face directory",
                  .value = "PATH",
                  .required = true,
                  .is_input = true},
                 model_);
        v.option({.name = "activation-sparsity",
                  .help = "also how few neurons tokens need where perplexity may rise by so many "
                          "per cent; 0: not",
                  .value = "PERCENT",
                  .least = 0,
                  .most = 100},
                 percent_);
        text_options_.visit(v);
    }

    Plan plan(const cli::CommonOptions& common) {
        source_ = ModelSource::open(model_);
        const std::uint64_t vocabulary = Tokenizer::predict_bytes(source_->file());
        tokenizer_ = Tokenizer::open(source_->file());
        text_.emplace(text_options_, *tokenizer_);
        std::int64_t longest = 1;
        for (const auto& window : text_->windows())
            longest = std::max<std::int64_t>(longest, std::ssize(window));
        runner_.isa = parse_isa(common.cpu_isa, "--cpu-isa");
        runner_.activations = Activations::kF32;
        runner_.kv = {.type_k = "f16", .type_v = "f16", .context_tokens = longest};
        runner_.step_tokens = std::min<std::int64_t>(512, longest);
        const auto memory = [&] {
            Plan plan;
            Runner::add_to_plan(plan, *source_, runner_, longest, 1, percent_ > 0 ? longest : 0);
            prune::add_activity_to_plan(plan, *source_, longest);
            if (percent_ > 0)
                prune::add_sparsity_to_plan(plan, *source_, std::ssize(text_->windows()), longest);
            plan.at(Tier::kRam, Purpose::kVocabulary) +=
                vocabulary + source_->file().metadata().memory_bytes();
            plan.at(Tier::kRam, Purpose::kIo) += std::max(text_->bytes(), text_->peak_bytes());
            return plan;
        };
        Plan plan = memory();
        const auto limit = Budget::parse(common.max_memory, "--max-memory")
                               .limit_bytes[static_cast<std::size_t>(Tier::kRam)];
        if (limit && plan.total_bytes(Tier::kRam) + kBaselineBytes > *limit) {
            runner_.weight_bytes = 0;  // layers are read from disk for each text
            plan = memory();
        }
        plan.cheapest_change = "a smaller --ctx-size";
        return plan;
    }

    void run(cli::Context& context) {
        Runner runner(std::move(source_), runner_, context.team);
        const Progress go_on = [&](const char* what, std::int64_t done, std::int64_t total) {
            context.progress(what, done, total);
            return !context.interrupted();
        };
        prune::Activity activity;
        std::optional<prune::ActivationSparsity> sparsity;
        try {
            activity = prune::watch_activity(runner, text_->windows(), go_on);
            if (percent_ > 0) {
                sparsity = prune::measure_activation_sparsity(runner, context.team, windows(),
                                                              percent_, go_on);
            }
        } catch (const Stopped&) {
            return;
        }
        context.report.set("activity", activity.json());
        if (sparsity) context.report.set("activation_sparsity", sparsity->json());
        context.report.set("text_sha256", text_->sha256());
        if (!context.stdout_is_json()) context.print(table(activity, sparsity));
        log_info(massive(activity));
        if (sparsity) log_info(neurons(*sparsity));
    }

  private:
    [[nodiscard]] static std::string padded(const std::string& text, std::size_t width) {
        return std::string(width > text.size() ? width - text.size() : 0, ' ') + text;
    }
    // Whole windows of the text.
    [[nodiscard]] eval::Windows windows() const {
        std::vector<Token> tokens;
        for (const auto& window : text_->windows()) {
            if (std::ssize(window) == text_options_.context_tokens)
                tokens.insert(tokens.end(), window.begin(), window.end());
        }
        return {std::move(tokens), text_options_.context_tokens, 0, std::nullopt,
                escaped(text_options_.file, 1024)};
    }
    [[nodiscard]] std::string table(
        const prune::Activity& activity,
        const std::optional<prune::ActivationSparsity>& sparsity) const {
        std::string out = "layer  influence         top     median       ratio";
        out += std::string(sparsity ? "  neurons" : "") + "  largest value\n";
        for (std::size_t l = 0; l < activity.layers.size(); ++l) {
            const prune::LayerActivity& layer = activity.layers[l];
            const prune::Extreme& e = layer.extremes.front();
            out += padded(std::to_string(l), 5) + padded(fixed(layer.influence, 4), 11) +
                   padded(fixed(layer.top, 2), 12) + padded(fixed(layer.median, 4), 11) +
                   padded(fixed(layer.ratio(), 1), 12) +
                   (sparsity ? padded(fixed(100 * sparsity->layers[l].kept, 1) + " %", 9) : "") +
                   "  dim " + std::to_string(e.dim) + ", token " + std::to_string(e.token) + " '" +
                   escaped(tokenizer_->piece(e.id, true)) + "'" +
                   (layer.same_dim ? ", the same dim in all texts" : "") + "\n";
        }
        return out;
    }
    static std::string neurons(const prune::ActivationSparsity& s) {
        return "tokens need " + fixed(100 * s.kept(), 2) +
               " % of the neurons where perplexity may rise by " + fixed(s.percent, 2) +
               " %: " + fixed(s.dense_perplexity, 4) + " -> " + fixed(s.sparse_perplexity, 4) +
               ", CETT " + fixed(s.cett, 4) + ", " + std::to_string(s.tokens) + " tokens scored";
    }
    static std::string massive(const prune::Activity& activity) {
        const auto first = activity.first_massive(), last = activity.last_massive();
        if (!first) return "no layer has massive activations (above 100 and 1000 times the median)";
        return "massive activations (above 100 and 1000 times the median) from layer " +
               std::to_string(*first) + " to layer " + std::to_string(*last) +
               ": one scale for a whole token serves its other values badly";
    }

    std::string model_;
    double percent_ = 0;
    CalibrationOptions text_options_;
    std::unique_ptr<ModelSource> source_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::optional<CalibrationText> text_;
    RunnerOptions runner_;
};

}  // namespace

cli::Command inspect_command() {
    const auto work = std::make_shared<Inspect>();
    cli::Command c;
    c.name = "inspect";
    c.help = "what each layer changes, and massive activations; writes nothing";
    c.options = [work](OptionVisitor& v) { work->visit(v); };
    c.plan = [work](const cli::CommonOptions& common) { return work->plan(common); };
    c.run = [work](cli::Context& context) { work->run(context); };
    return c;
}

}  // namespace thimble
