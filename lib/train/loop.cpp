// SPDX-License-Identifier: Apache-2.0
#include "train/loop.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "core/checked.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "cost/time_model.h"
#include "io/json.h"
#include "io/sha256.h"
#include "train/remedy.h"

namespace thimble::train {
namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

// Rows of one pass, side by side.
struct PassRows {
    std::vector<std::int32_t> tokens, targets;
    std::vector<std::int64_t> documents;

    void add(const PackedRow& row) {
        tokens.insert(tokens.end(), row.tokens.begin(), row.tokens.end());
        targets.insert(targets.end(), row.targets.begin(), row.targets.end());
        documents.insert(documents.end(), row.document_lengths.begin(), row.document_lengths.end());
    }
    [[nodiscard]] Batch batch() const { return {tokens, targets, documents}; }
};

// Steps between looks at whether all ranks have the same parameters.
constexpr std::int64_t kCompareEvery = 64;

std::vector<PassRows> passes_of(const std::vector<PackedRow>& rows, std::int64_t rows_of_pass) {
    std::vector<PassRows> passes;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (i % static_cast<std::size_t>(rows_of_pass) == 0) passes.emplace_back();
        passes.back().add(rows[i]);
    }
    return passes;
}

}  // namespace

void LoopOptions::visit(OptionVisitor& v) {
    data.visit(v);
    v.group("Training");
    v.option({.name = "steps",
              .help = "updates in all; 0: as many as the epochs have",
              .value = "N",
              .least = 0},
             steps);
    v.option({.name = "epochs", .help = "passes over the data", .value = "N", .least = 1}, epochs);
    v.option({.name = "batch-size",
              .letter = 'b',
              .help = "rows of --ctx-size tokens that go through the model at once",
              .value = "N",
              .least = 1,
              .most = 4096},
             batch_rows);
    v.option({.name = "grad-accumulation",
              .help = "passes whose gradients make one update",
              .value = "N",
              .least = 1,
              .most = 1 << 16},
             accumulation);
    v.option({.name = "update-in-backward",
              .help = "each gradient is used up as soon as backward has made it, so that none are "
                      "stored; without --grad-accumulation, and for twice the time unless "
                      "--max-grad-norm is 0"},
             trainer.update_in_backward);
    v.option({.name = "validate-every",
              .help = "steps between validations; 0: at the end only",
              .value = "N",
              .changes_output = false,
              .least = 0},
             validate_every);
    v.option({.name = "save-every",
              .help = "steps between checkpoints of the whole state; 0: when stopped only",
              .value = "N",
              .changes_output = false,
              .least = 0},
             save_every);
    schedule.visit(v);
}

struct Loop::State {
    State(const ModelSource& from, const Tokenizer& tokenizer, LoopOptions o)
        : source(from),
          options(std::move(o)),
          data(open_training_data(options.data, tokenizer, options.trainer.seed)),
          stream(data.train, options.data, batch_plan()),
          total(options.steps > 0 ? options.steps : steps_of_epochs()),
          schedule(options.schedule, total) {
        TrainerOptions& t = options.trainer;
        t.pass.most_tokens = rows_of_pass() * options.data.context_tokens;
        t.pass.most_document = options.data.context_tokens;
        t.passes = ceil_div(options.batch_rows * options.accumulation,
                            rows_of_pass() * static_cast<std::int64_t>(ranks().size()));
        t.weight_decay = options.schedule.weight_decay;
        t.most_norm = options.schedule.max_grad_norm;
        t.run = key();
    }

    [[nodiscard]] BatchPlan batch_plan() const {
        BatchPlan plan;
        plan.rows_per_step = options.batch_rows * options.accumulation;
        plan.epochs = options.steps > 0 ? INT64_MAX / 2 : options.epochs;
        plan.seed = options.trainer.seed;
        plan.rank = ranks().rank(), plan.ranks = ranks().size();
        if (plan.rows_per_step < plan.ranks) {
            throw Error(
                Exit::kUsage, "--batch-size",
                std::to_string(plan.ranks) + " ranks share " + std::to_string(plan.rows_per_step) +
                    " rows a step: some would idle",
                "--grad-accumulation " + std::to_string(ceil_div(plan.ranks, options.batch_rows)));
        }
        return plan;
    }
    [[nodiscard]] dist::Communicator& ranks() const { return *options.trainer.ranks; }
    [[nodiscard]] std::int64_t rows_of_pass() const {
        return std::min(options.batch_rows, ceil_div(options.batch_rows * options.accumulation,
                                                     static_cast<std::int64_t>(ranks().size())));
    }
    [[nodiscard]] std::int64_t steps_of_epochs() const {
        std::int64_t steps = 0;
        for (std::int64_t epoch = 0; epoch < options.epochs; ++epoch)
            steps += stream.count(epoch).steps;
        return steps;
    }
    // What all steps depend on besides the model: options and data.
    [[nodiscard]] std::string key() const {
        std::string text;
        for (const OptionRecord& record :
             list_options([copy = options](OptionVisitor& v) mutable { copy.visit(v); })) {
            if (!record.info.changes_output || record.info.is_input) continue;
            text += std::string(record.info.name) + '=';
            for (const std::string& value : record.values) text += value + ',';
        }
        for (const DataFile& file : data.train.files()) text += file.sha256 + ' ';
        text += std::to_string(source.file().file_bytes());
        return sha256_of(text);
    }
    [[nodiscard]] std::string notes() const {
        const DataCursor& at = stream.cursor();
        Json json = Json::object();
        json.set("epoch", at.epoch);
        json.set("window", at.window);
        json.set("row", at.row);
        return json.dump();
    }
    void go_on(const std::string& text) {
        const Json json = parse_json(text, options.state);
        const auto number = [&](const char* key) {
            const Json* value = json.find(key);
            if (value == nullptr)
                throw Error(Exit::kBadData, escaped(options.state, 1024),
                            "has no place in the data");
            return value->as_int(options.state);
        };
        stream.seek({number("epoch"), number("window"), number("row")});
    }
    void save(const LoopEvents& events) {
        if (options.state.empty() || ranks().rank() > 0) return;
        trainer->save(options.state, notes());
        if (events.saved) events.saved(trainer->steps());
    }
    void validate(const LoopEvents& events);
    StepReport step();
    void predict_time(Plan& plan, const cost::TrainingWork& work) const;
    // Whether any rank wants to.
    [[nodiscard]] bool stops(bool wanted) const {
        double wants = wanted ? 1 : 0;
        ranks().sum(std::span(&wants, 1));
        return wants > 0;
    }

    const ModelSource& source;
    LoopOptions options;
    TrainingData data;
    BatchStream stream;
    std::int64_t total;
    Schedule schedule;
    std::unique_ptr<Trainer> trainer;
};

Loop::Loop(const ModelSource& source, const Tokenizer& tokenizer, LoopOptions options)
    : state_(std::make_unique<State>(source, tokenizer, std::move(options))) {}
Loop::~Loop() = default;
std::int64_t Loop::total_steps() const noexcept { return state_->total; }
const TrainingData& Loop::data() const noexcept { return state_->data; }
Trainer& Loop::trainer() noexcept { return *state_->trainer; }

void Loop::add_to_plan(Plan& plan) const {
    const State& s = *state_;
    const cost::TrainingWork work = Trainer::add_to_plan(plan, s.source, s.options.trainer);
    // The data's index is there already; the validation's stream lives beside the training's.
    std::uint64_t bytes = Ledger::process().current_bytes(Tier::kRam, Purpose::kIo);
    const auto add = [&](const DataSet& data) {
        bytes += BatchStream::most_bytes(s.options.data, data.size()) +
                 BatchStream::batch_bytes(data, s.options.data, s.batch_plan());
    };
    add(s.data.train);
    if (s.data.validation) add(*s.data.validation);
    plan.at(Tier::kRam, Purpose::kIo) += bytes;
    if (s.options.trainer.device == Device::kCpu)  // no other has been measured
        s.predict_time(plan, work);
}

std::string Loop::cheapest_change(const Plan& plan, const Budget& budget) const {
    return train::cheapest_change(state_->source, state_->options.trainer, plan, budget);
}

void Loop::start(Team& team, Device device, Isa isa) {
    State& s = *state_;
    s.options.trainer.device = device;
    s.options.trainer.isa = isa;
    s.trainer = std::make_unique<Trainer>(s.source, s.options.trainer, team);
    const bool again = !s.options.state.empty() && std::filesystem::exists(s.options.state);
    if (again) s.go_on(s.trainer->restore(s.options.state));
    s.trainer->compare_ranks();
    if (!again) return;
    log_info("goes on after step " + std::to_string(s.trainer->steps()) + " of " +
             std::to_string(s.total));
}

StepReport Loop::State::step() {
    const double start = now();
    TrainingBatch batch;
    if (!stream.next(batch)) throw Error(Exit::kFailure, "data", "ended before the last step");
    const std::vector<PassRows> rows = passes_of(batch.rows, rows_of_pass());
    std::vector<Batch> batches;
    for (const PassRows& r : rows) batches.push_back(r.batch());
    StepReport report;
    report.step = trainer->steps() + 1;
    report.steps = total;
    report.learning_rate = schedule.learning_rate_at(report.step);
    const StepResult result = trainer->step(batches, report.learning_rate);
    report.loss = result.loss.loss / static_cast<double>(result.loss.targets);
    report.gradient_norm = result.norm;
    report.tokens = batch.global_tokens;
    report.targets = batch.global_targets;
    report.epoch = batch.epoch;
    report.seconds = now() - start;
    return report;
}

// Of all steps; rows are taken to be full, and ranks to share nothing.
void Loop::State::predict_time(Plan& plan, const cost::TrainingWork& work) const {
    const TrainerOptions& t = options.trainer;
    const cost::MachineProfile profile = cost::find_profile({});
    const cost::TrainingTime time =
        cost::training_time({profile, t.threads, false}, source.spec(), work);
    plan.seconds = time.step * static_cast<double>(total);
    plan.time_basis = "machine profile " + profile.name;
    const auto tokens =
        static_cast<double>(batch_plan().rows_per_step * options.data.context_tokens);
    char text[128];
    std::snprintf(text, sizeof(text), "about %.2g s a step, %.0f tokens/s", time.step,
                  tokens / time.step);
    plan.notes.emplace_back(text);
    const double read = work.passes.read_bytes + work.state.read_bytes;
    const double written = work.passes.written_bytes + work.state.written_bytes;
    if (time.disk == 0) return;
    std::snprintf(text, sizeof(text), "disk: %s read, %s written a step, about %.2g s of it",
                  format_bytes(static_cast<std::uint64_t>(read)).c_str(),
                  format_bytes(static_cast<std::uint64_t>(written)).c_str(), time.disk);
    plan.notes.emplace_back(text);
}

void Loop::State::validate(const LoopEvents& events) {
    if (!data.validation || !events.validated) return;
    DataOptions in_order = options.data;
    in_order.shuffle = false;
    BatchPlan plan;
    plan.rank = ranks().rank(), plan.ranks = ranks().size();
    plan.rows_per_step = rows_of_pass() * plan.ranks;
    BatchStream rows(*data.validation, in_order, plan);
    std::array<double, 2> sums = {};  // of losses; of targets
    for (TrainingBatch batch; rows.next(batch);) {
        for (const PassRows& r : passes_of(batch.rows, rows_of_pass())) {
            const LossSums part = trainer->evaluate(r.batch());
            sums[0] += part.loss, sums[1] += static_cast<double>(part.targets);
        }
    }
    ranks().sum(sums);
    events.validated(
        {trainer->steps(), static_cast<std::int64_t>(sums[1]), sums[0] / std::max(sums[1], 1.0)});
}

bool Loop::run(const LoopEvents& events) {
    State& s = *state_;
    while (s.trainer->steps() < s.total) {
        const StepReport report = s.step();
        const bool last = report.step == s.total;
        const auto due = [&](std::int64_t every) { return every > 0 && report.step % every == 0; };
        if (last || due(s.options.validate_every)) s.validate(events);
        const bool stop = s.stops(events.step && !events.step(report)) && !last;
        const bool saves = !last && (stop || due(s.options.save_every));
        if (saves || last || due(kCompareEvery)) s.trainer->compare_ranks();
        if (saves) s.save(events);
        if (stop) return false;
    }
    return true;
}

}  // namespace thimble::train
