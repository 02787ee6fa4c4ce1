// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/sha256.h"
#include "train/checkpoint.h"
#include "train/fused_sink.h"
#include "train/schedule.h"
#include "train/slot_store.h"
#include "train/trained_store.h"

namespace thimble::train {
namespace {

// Of a chunk of the optimizer's state. On disk it is what is read at once, a few of them in memory.
std::int64_t chunk_elements(const Offload& offload) {
    return std::int64_t{1} << (offload.has_optimizer() ? 20 : 22);
}
PassOptions pass_options(const TrainerOptions& options) {
    PassOptions pass = options.pass;
    pass.activations_on_disk = options.offload.has_activations();
    return pass;
}

Exec exec_of(const TrainerOptions& options) {
    Exec exec;
    if (options.device != Device::kCpu)
        throw Error(Exit::kUsage, "--device", "training runs on the CPU", "--device cpu");
    exec.device = options.device;
    exec.isa = options.isa;
    exec.activations = options.bf16 ? Activations::kBf16 : Activations::kF32;
    exec.products = Products::kDense;
    return exec;
}

}  // namespace

struct Trainer::State {
    State(const ModelSource& from, const TrainerOptions& how, Exec run_on)
        : source(from),
          options(how),
          exec(run_on),
          method(make_method(how.method, "--method")),
          optimizer(make_optimizer(how.optimizer, "--optimizer")),
          fuses(how.update_in_backward || optimizer->updates_in_backward()),
          tier(exec.dry || !how.offload.any() ? nullptr
                                              : storage::open_file_tier(how.offload_directory)),
          store(from, exec, *method, parameters,
                {!fuses, how.offload.has_parameters(), tier.get()}) {
        check();
        if (fuses) fused.emplace(parameters, *optimizer, exec, *how.ranks);
        chunks = chunks_of(parameters, *optimizer, chunk_elements(how.offload));
    }
    [[nodiscard]] GradientSink& sink() {
        return fused ? static_cast<GradientSink&>(*fused) : parameters;
    }

    const ModelSource& source;
    TrainerOptions options;
    Exec exec;
    std::unique_ptr<Method> method;
    std::unique_ptr<Optimizer> optimizer;
    bool fuses;  // updates in backward
    std::unique_ptr<storage::StorageTier> tier;
    ParameterSet parameters;
    TrainedStore store;
    std::optional<FusedSink> fused;
    std::vector<Chunk> chunks;
    std::unique_ptr<SlotStore> slots;
    std::unique_ptr<Pass> pass;
    std::int64_t steps = 0;

    void check() const;
    [[nodiscard]] std::string cheapest_change();
    void begin_gradients(double learning_rate);
    [[nodiscard]] LossSums add_gradients(std::span<const Batch> batches, double targets,
                                         std::uint64_t passes_of_all);
    [[nodiscard]] double gradient_norm() const;
    void update(double learning_rate, double gradient_scale);
    [[nodiscard]] std::string fingerprint() const;
};

Trainer::Trainer(const ModelSource& source, const TrainerOptions& options, Team& team) {
    Exec exec = exec_of(options);
    exec.team = &team;
    const PassBytes bytes = [&] {
        Exec dry = exec;
        dry.dry = true;
        State paper(source, options, dry);
        return Pass::measure(source, dry, paper.store, paper.sink(), pass_options(options));
    }();
    state_ = std::make_unique<State>(source, options, exec);
    State& s = *state_;
    s.store.load();
    {
        HeldValues held(s.parameters);
        for (std::size_t i = 0; i < s.parameters.size(); ++i) {
            held.hold(i);
            s.method->initialise(source, s.parameters, i, options.seed);
            s.parameters.change(i);
        }
    }
    s.store.refresh();
    s.slots = options.offload.has_optimizer()
                  ? make_disk_slots(s.parameters, *s.optimizer, s.chunks, *s.tier)
                  : make_memory_slots(s.parameters, *s.optimizer, s.chunks);
    s.pass = std::make_unique<Pass>(source, exec, s.store, pass_options(options));
    s.pass->allocate(bytes, s.tier.get());
}

Trainer::~Trainer() = default;

void Trainer::add_to_plan(Plan& plan, const ModelSource& source, const TrainerOptions& options) {
    Team team(options.threads);
    Exec dry = exec_of(options);
    dry.team = &team;
    dry.dry = true;
    State paper(source, options, dry);
    const PassBytes bytes =
        Pass::measure(source, dry, paper.store, paper.sink(), pass_options(options));
    const auto add = [&](Purpose purpose, std::size_t n) {
        plan.at(Tier::kRam, purpose) += Buffer::charged_bytes(n);
    };
    add(Purpose::kWeights, paper.store.frozen_bytes());
    add(Purpose::kWeights, paper.parameters.value_bytes());
    const storage::PageBytes pages = paper.parameters.page_bytes();
    plan.at(Tier::kRam, Purpose::kWeights) += pages.ram;
    plan.at(Tier::kDisk, Purpose::kWeights) += pages.disk;
    add(Purpose::kGradients,
        paper.fused ? paper.fused->bytes() : paper.parameters.gradient_bytes(dry.dtype()));
    plan.at(Tier::kRam, Purpose::kGradients) +=
        dist::Communicator::charged_bytes(options.ranks->size());
    add(Purpose::kActivations, bytes.workspace);
    add(Purpose::kActivations, bytes.residual);
    for (const ActivationBytes& kept : {bytes.saved, bytes.checkpoints}) {
        plan.at(Tier::kRam, Purpose::kActivations) += kept.ram;
        plan.at(Tier::kDisk, Purpose::kActivations) += kept.disk;
    }
    if (options.offload.has_optimizer()) {
        const storage::PageBytes slots =
            disk_slot_bytes(paper.parameters, *paper.optimizer, paper.chunks);
        plan.at(Tier::kRam, Purpose::kOptimizer) += slots.ram;
        plan.at(Tier::kDisk, Purpose::kOptimizer) += slots.disk;
    } else {
        add(Purpose::kOptimizer, memory_slot_bytes(paper.parameters, *paper.optimizer));
    }
    plan.cheapest_change = paper.cheapest_change();
}

// To less memory: what only takes the disk's time before what changes the training.
std::string Trainer::State::cheapest_change() {
    const auto saves = [](const char* change, std::uint64_t before, std::uint64_t after) {
        return std::string(change) + " saves " + format_bytes(before - after);
    };
    const std::uint64_t state = memory_slot_bytes(parameters, *optimizer);
    const std::uint64_t at_hand = disk_slot_bytes(parameters, *optimizer, chunks).ram;
    if (!options.offload.has_optimizer() && state > at_hand)
        return saves("--offload optimizer=disk", state, at_hand);
    if (method->result() != ResultKind::kModel) return "";
    if (fuses) return options.offload.has_parameters() ? "" : "--offload parameters=disk";
    Exec dry = exec;
    dry.dry = true;
    return saves("--update-in-backward --max-grad-norm 0", parameters.gradient_bytes(exec.dtype()),
                 FusedSink(parameters, *optimizer, dry, *options.ranks).bytes());
}

const ParameterSet& Trainer::parameters() const noexcept { return state_->parameters; }
ParameterSet& Trainer::parameters() noexcept { return state_->parameters; }
const Method& Trainer::method() const noexcept { return *state_->method; }
std::int64_t Trainer::steps() const noexcept { return state_->steps; }
const storage::StorageTier* Trainer::tier() const noexcept { return state_->tier.get(); }

LossSums Trainer::evaluate(const Batch& batch) {
    state_->method->set_pass(0, 0);
    return state_->pass->evaluate(batch);
}

void Trainer::State::begin_gradients(double learning_rate) {
    if (!fused) return parameters.zero_gradients(exec);
    fused->begin_step(steps + 1, learning_rate, options.weight_decay, *slots, chunks);
}

// Of this rank's passes; sums of the losses of all ranks.
LossSums Trainer::State::add_gradients(std::span<const Batch> batches, double targets,
                                       std::uint64_t passes_of_all) {
    dist::Communicator& ranks = *options.ranks;
    // Passes are numbered as they are dealt to ranks.
    std::uint64_t number = static_cast<std::uint64_t>(steps) * passes_of_all +
                           static_cast<std::uint64_t>(ranks.rank());
    std::array<double, 2> sums = {};
    for (const Batch& batch : batches) {
        method->set_pass(options.seed, number);
        number += static_cast<std::uint64_t>(ranks.size());
        const LossSums part = pass->train(batch, 1 / targets, sink());
        sums[0] += part.loss;
        sums[1] += static_cast<double>(part.targets);
    }
    if (fused && batches.empty()) {  // the sums of other ranks need this one's zeros
        constexpr std::int32_t kToken = 0, kTarget = -1;
        constexpr std::int64_t kLength = 1;
        (void)pass->train({{&kToken, 1}, {&kTarget, 1}, {&kLength, 1}}, 1 / targets, sink());
    }
    ranks.sum(sums);
    return {sums[0], static_cast<std::int64_t>(sums[1])};
}

StepResult Trainer::step(std::span<const Batch> batches, double learning_rate) {
    State& s = *state_;
    std::array<double, 2> counts = {0, static_cast<double>(batches.size())};
    for (const Batch& batch : batches) {
        counts[0] +=
            static_cast<double>(std::count_if(batch.targets.begin(), batch.targets.end(),
                                              [](std::int32_t t) { return t != kNoTarget; }));
    }
    s.options.ranks->sum(counts);
    const auto [targets, passes] = counts;
    if (targets == 0) throw Error(Exit::kBadData, "batch", "has no token to learn");
    s.begin_gradients(learning_rate);
    StepResult result;
    result.loss = s.add_gradients(batches, targets, static_cast<std::uint64_t>(passes));
    if (!std::isfinite(result.loss.loss)) {
        throw Error(Exit::kFailure, "step " + std::to_string(s.steps + 1),
                    "the loss is not a finite number", "lower --learning-rate");
    }
    if (!s.fused) {
        s.options.ranks->sum(s.parameters.stored_gradients());
        s.method->finish_gradients(s.exec, s.parameters);
        result.norm = s.gradient_norm();
        s.update(learning_rate, clip_factor(result.norm * result.norm, s.options.most_norm));
    }
    ++s.steps;
    s.store.refresh();
    return result;
}

// Options that do not go together.
void Trainer::State::check() const {
    if (options.update_in_backward && options.most_norm > 0) {
        throw Error(Exit::kUsage, "--max-grad-norm",
                    "gradients are used up in backward, no norm of all is known before",
                    "--max-grad-norm 0");
    }
    if (fuses && options.passes > 1) {
        throw Error(Exit::kUsage, "--grad-accumulation",
                    "gradients are used up in backward and cannot be summed", "use 1");
    }
    if (optimizer->updates_in_backward() && options.most_norm > 0 && !exec.dry) {
        log_warning("--max-grad-norm has no effect on --optimizer " + options.optimizer +
                    ": no norm of all gradients is known before they are used up");
    }
    const bool adapts = method->result() != ResultKind::kModel;
    if (fuses && adapts) {
        throw Error(Exit::kUsage, "--method",
                    "gradients of adapters cannot be used up in backward: it needs the parts of a "
                    "pair together",
                    "--method full, or another --optimizer");
    }
    if (!options.offload.has_parameters()) return;
    if (adapts) {
        throw Error(Exit::kUsage, "--offload", "parameters of adapters stay in memory",
                    "drop parameters=disk");
    }
    if (!fuses) {
        throw Error(Exit::kUsage, "--offload",
                    "parameters on disk are updated while their layer is in memory",
                    "--update-in-backward");
    }
}

void Trainer::compare_ranks() {
    State& s = *state_;
    dist::Communicator& ranks = *s.options.ranks;
    if (ranks.size() == 1) return;
    Sha256 hash;
    hash.update(s.fingerprint() + "|" + std::to_string(s.steps));
    {
        HeldValues held(s.parameters);
        for (std::size_t i = 0; i < s.parameters.size(); ++i) {
            const Parameter& p = held.hold(i);
            hash.update({reinterpret_cast<const std::byte*>(p.values), p.value_bytes()});
        }
    }
    const std::string mine = hash.finish();
    const std::vector<std::byte> all = ranks.gather(std::as_bytes(std::span(mine)));
    for (int r = 1; r < ranks.size(); ++r) {
        if (std::equal(all.begin(), all.begin() + std::ssize(mine),
                       all.begin() + r * std::ssize(mine)))
            continue;
        throw Error(Exit::kFailure, "rank " + std::to_string(r),
                    "has other options, data, steps or parameters than rank 0 at step " +
                        std::to_string(s.steps),
                    "the same command, files, state and --cpu-isa on every host");
    }
}

double Trainer::State::gradient_norm() const {
    double sum = 0;
    for (const Parameter& p : parameters.items()) {
        add_squares(*exec.team, exec.isa,
                    {static_cast<const float*>(p.gradient.data),
                     static_cast<std::size_t>(p.info.elements())},
                    sum);
    }
    if (!std::isfinite(sum)) {
        throw Error(Exit::kFailure, "step " + std::to_string(steps + 1),
                    "a gradient is not a finite number", "lower --learning-rate");
    }
    return std::sqrt(sum);
}

void Trainer::State::update(double learning_rate, double gradient_scale) {
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        const Chunk& chunk = chunks[i];
        Parameter& p = parameters[chunk.parameter];
        UpdateTile tile;
        tile.parameter = p.info;
        tile.first = chunk.first, tile.count = chunk.count;
        tile.weights = p.values + chunk.first;
        tile.gradients = static_cast<const float*>(p.gradient.data) + chunk.first;
        tile.gradient_scale = gradient_scale;
        tile.slots = slots->acquire(i);
        tile.step = steps + 1;
        tile.learning_rate = learning_rate * p.rate;
        tile.weight_decay = p.decays ? options.weight_decay : 0;
        train::update(*optimizer, *exec.team, exec.isa, tile);
        slots->release(i);
    }
}

// What a checkpoint must agree with.
std::string Trainer::State::fingerprint() const {
    return options.method + "|" + options.optimizer + "|" + std::to_string(options.seed) + "|" +
           source.spec().architecture + "|" + std::to_string(parameters.elements()) + "|" +
           (options.bf16 ? "bf16" : "f32") + "|" + options.run;
}

void Trainer::save(const std::string& path, const std::string& notes) {
    State& s = *state_;
    write_checkpoint(path, {s.fingerprint(), notes, s.steps}, s.parameters, *s.optimizer, s.chunks,
                     *s.slots);
}

std::string Trainer::restore(const std::string& path) {
    State& s = *state_;
    const CheckpointHead head =
        read_checkpoint(path, s.fingerprint(), s.parameters, *s.optimizer, s.chunks, *s.slots);
    s.steps = head.step;
    s.store.refresh();
    return head.notes;
}

}  // namespace thimble::train
