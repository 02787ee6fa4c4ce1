// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/sha256.h"
#include "ops/cuda_context.h"
#include "train/checkpoint.h"
#include "train/fused_sink.h"
#include "train/place.h"
#include "train/schedule.h"
#include "train/slot_store.h"
#include "train/step_work.h"
#include "train/trained_store.h"

namespace thimble::train {
namespace {

constexpr const char* kNormNote =
    "gradients are used up in backward: a pass before each finds the norm of all, for twice the "
    "time; --max-grad-norm 0 does without";

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
    if (options.device == Device::kRef)
        throw Error(Exit::kUsage, "--device", "training runs on the CPU or a CUDA device",
                    "--device cpu");
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
          cuda(make_context(run_on)),
          exec(with_context(run_on, cuda.get())),
          method(make_method(how.method, "--method")),
          optimizer(make_optimizer(how.optimizer, "--optimizer")),
          fuses(how.update_in_backward || optimizer->updates_in_backward()),
          tier(exec.dry || !how.offload.any() ? nullptr
                                              : storage::open_file_tier(how.offload_directory)),
          store(from, exec, *method, parameters,
                {!fuses, how.offload.has_parameters(), tier.get()}),
          updater(parameters, *optimizer, exec, how.seed) {
        check();
        if (fuses) fused.emplace(parameters, updater, exec, *how.ranks);
        chunks = chunks_of(parameters, *optimizer, chunk_elements(how.offload));
    }
    [[nodiscard]] GradientSink& sink() {
        return fused ? static_cast<GradientSink&>(*fused) : parameters;
    }

    [[nodiscard]] static std::unique_ptr<CudaContext> make_context(Exec exec) {
        if (exec.device != Device::kCuda || exec.dry) return nullptr;
        exec.device = Device::kCpu;
        return std::make_unique<CudaContext>(exec);
    }
    [[nodiscard]] static Exec with_context(Exec exec, CudaContext* cuda) {
        exec.cuda = cuda;
        return exec;
    }

    const ModelSource& source;
    TrainerOptions options;
    std::unique_ptr<CudaContext> cuda;  // of Device::kCuda, unless on paper
    Exec exec;
    std::unique_ptr<Method> method;
    std::unique_ptr<Optimizer> optimizer;
    bool fuses;  // updates in backward
    std::unique_ptr<storage::StorageTier> tier;
    ParameterSet parameters;
    TrainedStore store;
    Updater updater;
    std::optional<FusedSink> fused;
    std::vector<Chunk> chunks;
    std::unique_ptr<SlotStore> slots;
    std::unique_ptr<Pass> pass;
    std::int64_t steps = 0;

    void check() const;
    void check_cuda() const;
    // Of a step: this rank's batches, and of all ranks how many passes and targets.
    struct Work {
        std::span<const Batch> batches;
        std::uint64_t passes = 0;
        double targets = 0;
    };
    [[nodiscard]] Work work_of(std::span<const Batch> batches) const;
    [[nodiscard]] LossSums add_gradients(const Work& work);
    [[nodiscard]] LossSums checked(LossSums sums) const;
    [[nodiscard]] double gradient_norm() const;
    [[nodiscard]] StepResult step_after_backward(const Work& work, UpdateStep update);
    [[nodiscard]] StepResult step_in_backward(const Work& work, UpdateStep update);
    [[nodiscard]] LossSums pass_in_backward(const Work& work, FusedSink::Use use);
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
    if (s.fused && options.most_norm > 0) log_info(kNormNote);
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
    s.pass = std::make_unique<Pass>(source, s.exec, s.store, pass_options(options));
    s.pass->allocate(bytes, s.tier.get());
}

Trainer::~Trainer() = default;

cost::TrainingWork Trainer::add_to_plan(Plan& plan, const ModelSource& source,
                                        const TrainerOptions& options) {
    Team team(options.threads);
    Exec dry = exec_of(options);
    dry.team = &team;
    dry.dry = true;
    State paper(source, options, dry);
    const PassBytes bytes =
        Pass::measure(source, dry, paper.store, paper.sink(), pass_options(options));
    const Place there = place_of(dry), here = host_place_of(dry);
    const auto add = [&](Purpose purpose, std::size_t n, Place place = Place::kHost) {
        plan.at(place == Place::kDevice ? Tier::kVram : Tier::kRam, purpose) +=
            Buffer::charged_bytes(n, place);
    };
    add(Purpose::kWeights, paper.store.frozen_bytes(), there);
    add(Purpose::kWeights, paper.parameters.value_bytes(), here);
    const storage::PageBytes pages = paper.parameters.page_bytes();
    plan.at(Tier::kRam, Purpose::kWeights) += pages.ram;
    plan.at(Tier::kDisk, Purpose::kWeights) += pages.disk;
    const std::size_t gradients =
        paper.fused ? paper.fused->bytes() : paper.parameters.gradient_bytes(dry.dtype());
    add(Purpose::kGradients, gradients, here);
    if (there == Place::kDevice) {
        add(Purpose::kWeights, paper.parameters.value_bytes(), there);
        add(Purpose::kGradients, gradients, there);
        CudaContext::add_to_plan(plan);
    }
    plan.at(Tier::kRam, Purpose::kGradients) +=
        dist::Communicator::charged_bytes(options.ranks->size());
    add(Purpose::kOptimizer, paper.updater.bytes());
    add(Purpose::kActivations, bytes.workspace, there);
    add(Purpose::kActivations, bytes.residual, there);
    for (const ActivationBytes& kept : {bytes.saved, bytes.checkpoints}) {
        plan.at(Tier::kVram, Purpose::kActivations) += kept.vram;
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
    // Weights come through a buffer before there are state and activations.
    const std::uint64_t loading = Buffer::charged_bytes(paper.store.staging_bytes(), here);
    const std::uint64_t later =
        plan.at(Tier::kRam, Purpose::kOptimizer) + plan.at(Tier::kRam, Purpose::kActivations);
    if (loading > later) plan.at(Tier::kRam, Purpose::kIo) += loading - later;
    if (paper.fused && options.most_norm > 0) plan.notes.emplace_back(kNormNote);
    return step_work({.source = source,
                      .options = options,
                      .exec = dry,
                      .units = paper.store.specs(),
                      .parameters = paper.parameters,
                      .optimizer = *paper.optimizer,
                      .trains_model = paper.method->result() == ResultKind::kModel,
                      .in_backward = paper.fuses,
                      .bytes = bytes});
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

Trainer::State::Work Trainer::State::work_of(std::span<const Batch> batches) const {
    std::array<double, 2> counts = {0, static_cast<double>(batches.size())};
    for (const Batch& batch : batches) {
        counts[0] +=
            static_cast<double>(std::count_if(batch.targets.begin(), batch.targets.end(),
                                              [](std::int32_t t) { return t != kNoTarget; }));
    }
    options.ranks->sum(counts);
    if (counts[0] == 0) throw Error(Exit::kBadData, "batch", "has no token to learn");
    return {batches, static_cast<std::uint64_t>(counts[1]), counts[0]};
}

// Sums of this rank to those of all; Error where they are not finite.
LossSums Trainer::State::checked(LossSums sums) const {
    std::array<double, 2> all = {sums.loss, static_cast<double>(sums.targets)};
    options.ranks->sum(all);
    if (!std::isfinite(all[0])) {
        throw Error(Exit::kFailure, "step " + std::to_string(steps + 1),
                    "the loss is not a finite number", "lower --learning-rate");
    }
    return {all[0], static_cast<std::int64_t>(all[1])};
}

// Of this rank's passes; sums of the losses of all ranks.
LossSums Trainer::State::add_gradients(const Work& work) {
    // Passes are numbered as they are dealt to ranks.
    std::uint64_t number = static_cast<std::uint64_t>(steps) * work.passes +
                           static_cast<std::uint64_t>(options.ranks->rank());
    LossSums sums;
    for (const Batch& batch : work.batches) {
        method->set_pass(options.seed, number);
        number += static_cast<std::uint64_t>(options.ranks->size());
        const LossSums part = pass->train(batch, 1 / work.targets, parameters);
        sums.loss += part.loss, sums.targets += part.targets;
    }
    return checked(sums);
}

StepResult Trainer::State::step_after_backward(const Work& work, UpdateStep update) {
    parameters.zero_gradients(exec);
    StepResult result;
    result.loss = add_gradients(work);
    parameters.collect_gradients(exec);
    options.ranks->sum(parameters.stored_gradients());
    method->finish_gradients(exec, parameters);
    result.norm = gradient_norm();
    update.gradient_scale = clip_factor(result.norm * result.norm, options.most_norm);
    updater.begin_step(update, *slots, chunks);
    for (std::size_t i = 0; i < parameters.size(); ++i)
        updater.update(i, static_cast<const float*>(parameters[i].gradient.data));
    return result;
}

// One pass, whose loss all ranks judge before the first gradient is used.
LossSums Trainer::State::pass_in_backward(const Work& work, FusedSink::Use use) {
    fused->begin_pass(use, steps + 1);
    constexpr std::int32_t kToken = 0, kTarget = kNoTarget;
    constexpr std::int64_t kLength = 1;
    // The sums of other ranks need the zeros of one that has no batch.
    const Batch none = {{&kToken, 1}, {&kTarget, 1}, {&kLength, 1}};
    LossSums sums;
    method->set_pass(options.seed, static_cast<std::uint64_t>(steps) * work.passes +
                                       static_cast<std::uint64_t>(options.ranks->rank()));
    (void)pass->train(work.batches.empty() ? none : work.batches.front(), 1 / work.targets, *fused,
                      [&](const LossSums& own) { sums = checked(own); });
    return sums;
}

// With a limit for the norm of all gradients a pass before finds it.
StepResult Trainer::State::step_in_backward(const Work& work, UpdateStep update) {
    if (options.most_norm > 0) {
        (void)pass_in_backward(work, FusedSink::Use::kNorm);
        const double norm = std::sqrt(fused->sum_of_squares());
        update.gradient_scale = clip_factor(norm * norm, options.most_norm);
    }
    updater.begin_step(update, *slots, chunks);
    StepResult result;
    result.loss = pass_in_backward(work, FusedSink::Use::kUpdate);
    result.norm = std::sqrt(fused->sum_of_squares());
    return result;
}

StepResult Trainer::step(std::span<const Batch> batches, double learning_rate) {
    State& s = *state_;
    const State::Work work = s.work_of(batches);
    const UpdateStep update = {s.steps + 1, learning_rate, s.options.weight_decay};
    const StepResult result =
        s.fused ? s.step_in_backward(work, update) : s.step_after_backward(work, update);
    ++s.steps;
    s.store.refresh();
    return result;
}

void Trainer::State::check_cuda() const {
    if (options.offload.has_parameters()) {
        throw Error(Exit::kUsage, "--offload", "a CUDA device has the parameters of all layers",
                    "drop parameters=disk");
    }
    if (options.offload.has_activations() && options.pass.checkpoint_layers == 0) {
        throw Error(Exit::kUsage, "--offload",
                    "what a CUDA device keeps of each layer does not lie on disk, only checkpoints",
                    "--checkpoint-layers 1");
    }
}

// Options that do not go together.
void Trainer::State::check() const {
    if (exec.device == Device::kCuda) check_cuda();
    if (fuses && options.passes > 1) {
        throw Error(Exit::kUsage, "--grad-accumulation",
                    "gradients are used up in backward and cannot be summed", "use 1");
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
            hash.update(held.hold(i).stored());
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
        double squares = 0;
        add_squares(*exec.team, exec.isa,
                    {static_cast<const float*>(p.gradient.data),
                     static_cast<std::size_t>(p.info.elements())},
                    squares);
        sum += squares;
    }
    if (!std::isfinite(sum)) {
        throw Error(Exit::kFailure, "step " + std::to_string(steps + 1),
                    "a gradient is not a finite number", "lower --learning-rate");
    }
    return std::sqrt(sum);
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
