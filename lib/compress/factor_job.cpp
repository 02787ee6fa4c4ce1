// SPDX-License-Identifier: Apache-2.0
#include "compress/factor_job.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>
#include <regex>

#include "calib/input_tap.h"
#include "compress/factor_matrix.h"
#include "compress/factor_writer.h"
#include "compress/rank_choice.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/gguf_writer.h"
#include "io/provenance.h"
#include "io/unchecked_file.h"
#include "model/factored_tensor.h"
#include "model/runner.h"
#include "model/stacked_tensor.h"

namespace thimble {
namespace {

constexpr std::int64_t kStepTokens = 512;
constexpr std::int64_t kLeastStep = 8;  // ranks are multiples of it, or of a block of the format
constexpr std::uint64_t kAlignment = 32;

// A matrix that may become factors.
struct Candidate {
    const SourceTensor* tensor = nullptr;
    SharedFormat format;
    RankChoices choices;
    std::size_t chosen = 0;

    [[nodiscard]] Shape2 shape() const { return {tensor->rows(), tensor->cols()}; }
    // The largest rank that saves anything; 0: none does.
    [[nodiscard]] std::int64_t most() const { return choices.size() > 1 ? choices[1].rank : 0; }
};

// Where its factors lie meanwhile, as long as they may be.
std::string a_name(const Candidate& c) { return factor_a_name(c.tensor->name); }
std::string b_name(const Candidate& c) { return factor_b_name(c.tensor->name); }

bool is_float(LayoutId layout) {
    return layout == LayoutId::k_f32 || layout == LayoutId::k_f16 || layout == LayoutId::k_bf16;
}

void keep_larger(Plan& plan, const Plan& other) {
    if (other.total_bytes(Tier::kRam) > plan.total_bytes(Tier::kRam)) plan = other;
}

}  // namespace

struct FactorJob::State {
    State(const FactorOptions& o, std::string_view v);

    FactorOptions options;
    std::string version;
    std::unique_ptr<ModelSource> source;
    std::optional<eval::CheckedTexts> texts;
    std::vector<std::string> inputs;  // files
    std::vector<Candidate> candidates;
    std::uint64_t bytes_now = 0;  // of the candidates
    RunnerOptions looking, checking;
    std::vector<FactorReport> reports;
    std::optional<eval::Quality> quality;
    std::uint64_t output_bytes = 0;

    [[nodiscard]] bool looks() const { return options.weighting != "none"; }
    [[nodiscard]] InputSums sums() const {
        return {options.weighting == "diagonal", options.weighting == "full"};
    }
    [[nodiscard]] std::uint64_t bytes_wanted() const {
        return static_cast<std::uint64_t>(options.ratio * static_cast<double>(bytes_now));
    }
    [[nodiscard]] std::vector<RankChoices> all_choices() const;
    void check_options() const;
    void find_candidates();
    void add(const SourceTensor& tensor);
    void choose();
    [[nodiscard]] FactorChoices choices() const;
    [[nodiscard]] Metadata metadata(const FactorWriter& writer, bool hash_inputs) const;
    [[nodiscard]] std::vector<TensorSpec> scratch_specs() const;
    [[nodiscard]] std::uint64_t scratch_bytes() const;
    [[nodiscard]] std::uint64_t predicted_bytes();
    [[nodiscard]] Plan plan_learning(int threads) const;
    [[nodiscard]] Plan plan_checking() const;

    void learn(Team& team, Isa isa, const std::string& scratch, const Progress& progress);
    void factor_layer(std::int64_t layer, const UnitSpec& unit, const InputTap* tap, Team& team,
                      TensorWriter& out);
    void factor(Candidate& candidate, const InputNorm& norm, std::size_t place, TensorWriter& out,
                std::mutex& writing) const;
    void write(const std::string& scratch, const std::string& path, Isa isa,
               const Progress& progress);
    void check(const std::string& path, Team& team, const Progress& progress);
};

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
    if (std::ranges::all_of(candidates, [](const Candidate& c) { return c.most() == 0; })) {
        throw Error(Exit::kUsage, "--format", "factors make no matrix smaller than it is",
                    "give a smaller format");
    }
}

void FactorJob::State::add(const SourceTensor& tensor) {
    Candidate c;
    c.tensor = &tensor;
    c.format = !options.format.empty()      ? make_format(options.format, "--format")
               : is_float(tensor.layout()) ? shared_format_of(tensor.layout())
                                           : shared_format_of(LayoutId::k_f16);
    if (!c.format->info().encodes)
        throw Error(Exit::kUsage, "--format", "'" + escaped(options.format) + "' cannot be written");
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

std::vector<RankChoices> FactorJob::State::all_choices() const {
    std::vector<RankChoices> out;
    for (const Candidate& c : candidates) out.push_back(c.choices);
    return out;
}

void FactorJob::State::choose() {
    const std::vector<std::size_t> chosen =
        options.ranks == "equal" ? choose_equal(all_choices(), options.ratio)
                                 : choose_ranks(all_choices(), bytes_wanted(), "--ratio");
    for (std::size_t i = 0; i < chosen.size(); ++i) candidates[i].chosen = chosen[i];
}

FactorChoices FactorJob::State::choices() const {
    FactorChoices out;
    for (const Candidate& c : candidates) out[c.tensor] = {c.choices[c.chosen].rank, c.format};
    return out;
}

Metadata FactorJob::State::metadata(const FactorWriter& writer, bool hash_inputs) const {
    Metadata out = writer.metadata();
    FactorOptions recorded = options;
    append_step(out, {"compress", version, [&](OptionVisitor& v) { recorded.visit(v); }, inputs},
                hash_inputs);
    return out;
}

std::vector<TensorSpec> FactorJob::State::scratch_specs() const {
    std::vector<TensorSpec> specs;
    for (const Candidate& c : candidates) {
        if (c.most() == 0) continue;
        const auto most = static_cast<std::uint64_t>(c.most());
        const auto [rows, cols] = c.shape();
        specs.push_back({a_name(c), TensorType::kF32, {most, static_cast<std::uint64_t>(cols)}});
        specs.push_back({b_name(c), TensorType::kF32, {most, static_cast<std::uint64_t>(rows)}});
    }
    return specs;
}

std::uint64_t FactorJob::State::scratch_bytes() const {
    return GgufWriter::predict(Metadata(), scratch_specs()).file_bytes;
}

// Of the output: exact where ranks follow from the ratio alone, else an upper bound.
std::uint64_t FactorJob::State::predicted_bytes() {
    const bool exact = options.ranks == "equal";
    std::uint64_t factored = 0;
    if (exact) choose();
    for (Candidate& c : candidates) {
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
        held += Buffer::charged_bytes(static_cast<std::size_t>(tokens_of(texts->windows()) *
                                                               source->spec().hidden) *
                                      sizeof(float));
    }
    std::uint64_t most = 0;
    for (const Candidate& c : candidates) {
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
    for (const Candidate& c : candidates) rank = std::max(rank, c.most());
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

// Each layer is looked at as the model has it: what is lost before it does not change what it is
// factored for, and ranks can be chosen for all at once.
void FactorJob::State::learn(Team& team, Isa isa, const std::string& scratch,
                             const Progress& progress) {
    GgufWriter out(scratch, Metadata(), scratch_specs(), IfExists::kReplace);
    const std::vector<UnitSpec> units = units_of(*source);
    std::optional<Runner> runner;
    Buffer states;
    View x;
    Exec exec;
    exec.isa = isa, exec.team = &team, exec.activations = Activations::kF32;
    const UnitSpec* unit = nullptr;
    InputTap tap(exec, sums(), [&](std::size_t matrix) {
        return std::ranges::any_of(candidates, [&](const Candidate& c) {
            return c.tensor == unit->matrices[matrix].weight && c.most() > 0;
        });
    });
    if (looks()) {
        runner.emplace(ModelSource::open(options.model), looking, team);
        const std::int64_t tokens = tokens_of(texts->windows()), hidden = source->spec().hidden;
        states =
            Buffer(static_cast<std::size_t>(tokens * hidden) * sizeof(float), Purpose::kActivations);
        x = {states.data(), DType::kF32, tokens, hidden, hidden};
        runner->embed(texts->windows(), x);
    }
    for (std::int64_t layer = 0; layer < source->spec().layers; ++layer) {
        unit = &units[static_cast<std::size_t>(layer) + 1];
        tap.clear();
        if (runner) runner->sweep_layer(layer, texts->windows(), x, &tap);
        factor_layer(layer, *unit, runner ? &tap : nullptr, team, out);
        if (!progress("layers", layer + 1, source->spec().layers)) throw Stopped();
    }
    out.finish();
}

void FactorJob::State::factor_layer(std::int64_t layer, const UnitSpec& unit, const InputTap* tap,
                                    Team& team, TensorWriter& out) {
    struct Work {
        Candidate* candidate = nullptr;
        std::size_t place = 0;  // of its a among the scratch file's tensors
        std::size_t matrix = 0;
    };
    std::vector<Work> work;
    std::size_t place = 0;
    for (Candidate& c : candidates) {
        if (c.most() == 0) continue;
        const auto at = std::ranges::find(unit.matrices, c.tensor, &UnitSpec::Matrix::weight);
        if (c.tensor->layer == layer && at != unit.matrices.end())
            work.push_back({&c, place, static_cast<std::size_t>(at - unit.matrices.begin())});
        place += 2;
    }
    std::mutex writing;
    team.run(std::ssize(work), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const Work& w = work[static_cast<std::size_t>(i)];
            std::vector<double> squares;
            InputNorm norm;
            norm.damp = options.damp;
            if (sums().squares) squares = tap->squares(w.matrix);
            if (sums().gram) norm.gram = tap->gram(w.matrix);
            norm.squares = squares;
            if (looks() && norm.gram.empty() && norm.squares.empty())
                throw Error(Exit::kBadData, escaped(options.model, 1024),
                            "no token reached '" + w.candidate->tensor->name + "'");
            factor(*w.candidate, norm, w.place, out, writing);
        }
    });
}

void FactorJob::State::factor(Candidate& c, const InputNorm& norm, std::size_t place,
                              TensorWriter& out, std::mutex& writing) const {
    const auto [rows, cols] = c.shape();
    std::vector<float> weights(static_cast<std::size_t>(rows * cols));
    const Charge charge(Tier::kRam, Purpose::kOther, weights.size() * sizeof(float));
    std::vector<std::byte> bytes;
    const std::int64_t step = std::max<std::int64_t>((std::int64_t{1} << 20) / cols, 1);
    for (std::int64_t first = 0; first < rows; first += step)
        source->read_rows(*c.tensor, first, std::min(step, rows - first),
                          weights.data() + first * cols, bytes);
    const MatrixFactors factors =
        factor_matrix(weights, c.shape(), norm, c.most(),
                      escaped(options.model, 1024) + ": tensor '" + c.tensor->name + "'");
    const double all = std::accumulate(factors.energy.begin(), factors.energy.end(), 0.0);
    double lost = 0;
    auto next = std::ssize(factors.energy);
    for (std::size_t i = 1; i < c.choices.size(); ++i) {
        RankChoice& choice = c.choices[i];
        for (; next > choice.rank; --next)
            lost += factors.energy[static_cast<std::size_t>(next - 1)];
        choice.loss = all > 0 ? lost / all : 0;
    }
    const std::lock_guard lock(writing);
    out.write(place, 0, std::as_bytes(std::span(factors.a)));
    out.write(place + 1, 0, std::as_bytes(std::span(factors.b)));
}

void FactorJob::State::write(const std::string& scratch, const std::string& path, Isa isa,
                             const Progress& progress) {
    choose();
    const FactorWriter writer(*source, choices());
    const IfExists if_exists = options.overwrite || path != options.output ? IfExists::kReplace
                                                                            : IfExists::kRefuse;
    GgufWriter out(path, metadata(writer, true), writer.specs(), if_exists);
    const Charge disk(Tier::kDisk, Purpose::kWeights, out.file_bytes());
    output_bytes = out.file_bytes();
    std::int64_t done = 0;
    const std::int64_t all = std::ssize(writer.copied()) + std::ssize(candidates);
    const auto step = [&] {
        if (!progress("write", ++done, all)) throw Stopped();
    };
    for (const FactorOutput& tensor : writer.copied()) {
        writer.copy(tensor, out);
        step();
    }
    const std::unique_ptr<ModelFile> factors = ModelFile::open(scratch);
    reports.clear();
    for (const Candidate& c : candidates) {
        const RankChoice& choice = c.choices[c.chosen];
        reports.push_back(
            {c.tensor->name, choice.rank, c.choices.front().bytes, choice.bytes, choice.loss});
        if (choice.rank > 0) {
            const auto [rows, cols] = c.shape();
            std::vector<float> a(static_cast<std::size_t>(choice.rank * cols)),
                b(static_cast<std::size_t>(choice.rank * rows)), turned(b.size());
            factors->read(factors->get(a_name(c)), 0, std::as_writable_bytes(std::span(a)));
            factors->read(factors->get(b_name(c)), 0, std::as_writable_bytes(std::span(b)));
            for (std::int64_t k = 0; k < choice.rank; ++k)
                for (std::int64_t r = 0; r < rows; ++r)
                    turned[static_cast<std::size_t>(r * choice.rank + k)] =
                        b[static_cast<std::size_t>(k * rows + r)];
            writer.store(*c.tensor, a, turned, isa, out);
        }
        step();
    }
    out.finish();
}

void FactorJob::State::check(const std::string& path, Team& team, const Progress& progress) {
    Runner changed(ModelSource::open(path), checking, team);
    Runner original(ModelSource::open(options.model), checking, team);
    quality = eval::measure_quality(changed, original, *texts->checks(), progress);
    eval::check_divergence(*quality, options.max_kld, "give a larger --ratio");
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
