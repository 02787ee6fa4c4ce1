// SPDX-License-Identifier: Apache-2.0
#include "compress/factor_job.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <regex>

#include "compress/factor_state.h"
#include "core/error.h"
#include "core/strings.h"
#include "io/gguf_writer.h"
#include "io/provenance.h"
#include "io/unchecked_file.h"
#include "model/factored_tensor.h"
#include "model/stacked_tensor.h"

namespace thimble {
namespace {

constexpr std::int64_t kStepTokens = 512;
constexpr std::int64_t kLeastStep = 8;  // ranks are multiples of it, or of a block of the format
constexpr std::uint64_t kAlignment = 32;

bool is_float(LayoutId layout) {
    return layout == LayoutId::k_f32 || layout == LayoutId::k_f16 || layout == LayoutId::k_bf16;
}

void keep_larger(Plan& plan, const Plan& other) {
    if (other.total_bytes(Tier::kRam) > plan.total_bytes(Tier::kRam)) plan = other;
}

}  // namespace

FactorJob::State::State(const FactorOptions& o, std::string_view v)
    : options(o), version(v), source(ModelSource::open(o.model)) {
    check_options();
    texts.emplace(options, source->file());
    if (options.max_kld > 0 && !texts->checks()) {
        throw Error(Exit::kUsage, "--max-kld", "there is no text to measure the divergence on",
                    "give --check-file FILE, or -f FILE and --check-chunks N");
    }
    inputs = source->file().files();
    if (!options.file.empty()) inputs.push_back(options.file);
    refuse_overwriting_inputs(options.output, inputs);
    find_candidates();
    looking.activations = checking.activations = Activations::kF32;
    looking.kv = {.type_k = "f16", .type_v = "f16", .context_tokens = texts->longest()};
    looking.step_tokens = std::min(kStepTokens, texts->longest());
    checking.kv = {.type_k = "f16", .type_v = "f16", .context_tokens = options.context_tokens};
    checking.step_tokens = std::min(kStepTokens, options.context_tokens);
}

void FactorJob::State::check_options() const {
    const std::string where = escaped(options.model, 1024);
    if (any_stacked(*source) || largest_rank(*source) > 0)
        throw Error(Exit::kUsage, where, "has matrices in blocks or factors already",
                    "compress the model that it was made of");
    if (source->spec().input_norm_epsilon > 0)
        throw Error(Exit::kUsage, where,
                    "has matrices with coded input, which were trained as they are");
    if (looks() && options.file.empty()) {
        throw Error(Exit::kUsage, "--file",
                    "what matrices multiply is measured on a text, and there is none",
                    "give -f FILE, or --weighting none");
    }
}

void FactorJob::State::find_candidates() {
    std::vector<std::regex> rules;
    for (const std::string& rule : options.only) {
        try {
            rules.emplace_back(rule);
        } catch (const std::regex_error& e) {
            throw Error(Exit::kUsage, "--only", "'" + escaped(rule) + "': " + e.what());
        }
    }
    std::vector<std::string> names;
    std::vector<bool> hit(rules.size());
    for (const SourceTensor& tensor : source->tensors()) {
        if (!tensor.is_matrix || !tensor.name.starts_with("blk.")) continue;
        names.push_back(tensor.name);
        bool wanted = rules.empty();
        for (std::size_t r = 0; r < rules.size(); ++r) {
            if (!std::regex_search(tensor.name, rules[r])) continue;
            hit[r] = wanted = true;
        }
        if (wanted) add(tensor);
    }
    for (std::size_t r = 0; r < rules.size(); ++r) {
        if (hit[r]) continue;
        throw Error(Exit::kUsage, "--only",
                    "'" + escaped(options.only[r]) + "' finds no matrix of a layer",
                    did_you_mean(options.only[r], names));
    }
    if (std::ranges::all_of(candidates, [](const FactorCandidate& c) { return c.most() == 0; })) {
        throw Error(Exit::kUsage, "--format", "factors make no matrix smaller than it is",
                    "give a smaller format");
    }
}

void FactorJob::State::add(const SourceTensor& tensor) {
    FactorCandidate c;
    c.tensor = &tensor;
    c.format = !options.format.empty()     ? make_format(options.format, "--format")
               : is_float(tensor.layout()) ? shared_format_of(tensor.layout())
                                           : shared_format_of(LayoutId::k_f16);
    if (!c.format->info().encodes)
        throw Error(Exit::kUsage, "--format",
                    "'" + escaped(options.format) + "' cannot be written");
    const std::int64_t step = std::lcm(std::int64_t{c.format->info().block_elements}, kLeastStep);
    const std::uint64_t now = tensor.stored_bytes();
    c.choices.push_back({0, now, 0});
    for (std::int64_t rank = std::min(tensor.rows(), tensor.cols()) / step * step; rank > 0;
         rank -= step) {
        const std::uint64_t bytes = factored_bytes(*c.format, c.shape(), rank);
        if (bytes < now) c.choices.push_back({rank, bytes, 0});
    }
    bytes_now += now;
    candidates.push_back(std::move(c));
}

Metadata FactorJob::State::metadata(const FactorWriter& writer, bool hash_inputs) const {
    Metadata out = writer.metadata();
    FactorOptions recorded = options;
    append_step(out, {"compress", version, [&](OptionVisitor& v) { recorded.visit(v); }, inputs},
                hash_inputs);
    return out;
}

// Of the output: exact where ranks follow from the ratio alone, else an upper bound.
std::uint64_t FactorJob::State::predicted_bytes() {
    const bool exact = options.ranks == "equal";
    std::uint64_t factored = 0;
    if (exact) choose();
    for (FactorCandidate& c : candidates) {
        if (!exact) c.chosen = c.choices.size() > 1 ? 1 : 0;
        factored += c.choices[c.chosen].bytes;
    }
    const FactorWriter writer(*source, choices());
    const std::uint64_t bytes =
        GgufWriter::predict(metadata(writer, false), writer.specs()).file_bytes;
    if (exact) return bytes;
    // Widths of numbers and paddings that other ranks have.
    return bytes - factored + bytes_wanted() + kAlignment * writer.specs().size();
}

Plan FactorJob::State::plan_learning(int threads) const {
    Plan plan;
    if (looks()) {
        Runner::add_to_plan(plan, *source, looking, texts->longest(), 1, 0);
        std::uint64_t& held = plan.at(Tier::kRam, Purpose::kActivations);
        held += InputTap::bytes(*source, sums());
        held += Buffer::charged_bytes(
            static_cast<std::size_t>(tokens_of(texts->windows()) * source->spec().hidden) *
            sizeof(float));
    }
    std::uint64_t most = 0;
    for (const FactorCandidate& c : candidates) {
        const auto weights = static_cast<std::uint64_t>(c.shape().rows * c.shape().cols);
        most = std::max(most, factor_matrix_bytes(c.shape(), c.most()) + weights * sizeof(float));
    }
    plan.at(Tier::kRam, Purpose::kOther) += static_cast<std::uint64_t>(threads) * most;
    return plan;
}

Plan FactorJob::State::plan_checking() const {
    Plan plan;
    const std::int64_t rows =
        eval::rows_per_piece(source->spec(), checking, texts->checks()->rows(), true);
    for (int model = 0; model < 2; ++model)
        Runner::add_to_plan(plan, *source, checking, options.context_tokens, 1, rows);
    Exec exec;
    exec.activations = Activations::kF32;
    std::int64_t rank = 0;
    for (const FactorCandidate& c : candidates) rank = std::max(rank, c.most());
    plan.at(Tier::kRam, Purpose::kActivations) += factor_bytes(exec, checking.step_tokens, rank);
    eval::add_quality_to_plan(plan, source->spec(), checking, texts->checks()->count(),
                              options.context_tokens);
    return plan;
}

FactorJob::FactorJob(const FactorOptions& options, std::string_view version)
    : state_(std::make_unique<State>(options, version)) {}
FactorJob::~FactorJob() = default;

Plan FactorJob::plan(int threads, Isa isa, std::uint64_t baseline_bytes,
                     std::optional<std::uint64_t> ram_limit_bytes) {
    State& s = *state_;
    s.looking.isa = s.checking.isa = isa;
    const std::uint64_t bytes = s.predicted_bytes();
    const auto whole = [&] {
        Plan plan = s.plan_learning(threads);
        if (s.texts->checks()) keep_larger(plan, s.plan_checking());
        Plan writing;
        writing.at(Tier::kRam, Purpose::kOther) = FactorWriter::buffer_bytes(*s.source);
        keep_larger(plan, writing);
        plan.at(Tier::kRam, Purpose::kIo) += s.texts->bytes();
        plan.at(Tier::kRam, Purpose::kVocabulary) += 3 * s.source->file().metadata().memory_bytes();
        const std::uint64_t first = s.texts->peak_bytes(), later = plan.total_bytes(Tier::kRam);
        if (first > later) plan.at(Tier::kRam, Purpose::kVocabulary) += first - later;
        return plan;
    };
    Plan plan = whole();
    if (plan.total_bytes(Tier::kRam) + baseline_bytes > ram_limit_bytes.value_or(UINT64_MAX)) {
        s.looking.weight_bytes = s.checking.weight_bytes = 0;
        plan = whole();
    }
    plan.at(Tier::kDisk, Purpose::kWeights) = bytes + s.scratch_bytes();
    plan.output_bytes = bytes;
    plan.notes.push_back(s.options.ranks == "equal"
                             ? "ranks follow from the ratio: the size is exact"
                             : "ranks depend on the text: the output is no larger than this");
    plan.notes.push_back("factors of the largest rank, " + format_bytes(s.scratch_bytes()) +
                         ", lie beside the output until ranks are known");
    if (s.texts->checks()) {
        plan.notes.push_back(std::to_string(s.texts->checks()->count()) +
                             " windows to measure quality on, before and after");
    }
    plan.cheapest_change = "fewer --threads, --chunks and --check-chunks, or a smaller --ctx-size";
    return plan;
}

bool FactorJob::run(Team& team, Isa isa, const Progress& progress) {
    State& s = *state_;
    if (!s.options.overwrite && std::filesystem::exists(s.options.output)) {
        throw Error(Exit::kCannotCreate, escaped(s.options.output, 1024), "the output exists",
                    "give --overwrite to replace it");
    }
    check_can_create(s.options.output);
    try {
        const UncheckedFile scratch(s.options.output + ".factors");
        const Charge disk(Tier::kDisk, Purpose::kWeights, s.scratch_bytes());
        s.learn(team, isa, scratch.path(), progress);
        if (!s.texts->checks()) {
            s.write(scratch.path(), s.options.output, isa, progress);
            return true;
        }
        UncheckedFile made(s.options.output + ".unchecked");
        s.write(scratch.path(), made.path(), isa, progress);
        s.check(made.path(), team, progress);
        made.accept(s.options.output);
    } catch (const Stopped&) {
        return false;
    }
    return true;
}

const std::vector<FactorReport>& FactorJob::reports() const noexcept { return state_->reports; }
const std::optional<eval::Quality>& FactorJob::quality() const noexcept { return state_->quality; }
std::uint64_t FactorJob::input_bytes() const noexcept {
    return state_->source->file().file_bytes();
}
std::uint64_t FactorJob::output_bytes() const noexcept { return state_->output_bytes; }

}  // namespace thimble
