// SPDX-License-Identifier: Apache-2.0
#include "prune/job.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <regex>
#include <utility>

#include "calib/input_tap.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/gguf_writer.h"
#include "io/provenance.h"
#include "io/sha256.h"
#include "io/unchecked_file.h"
#include "prune/edited_layer.h"
#include "prune/model_writer.h"
#include "prune/pruner.h"

namespace thimble::prune {
namespace {

constexpr std::int64_t kStepTokens = 512;

std::uint64_t zeros_in(std::span<const float> weights) {
    return static_cast<std::uint64_t>(std::count(weights.begin(), weights.end(), 0.0F));
}

// The format that is asked for, where it stores no zeros; else null.
SharedFormat sparse_format(const std::string& spec) {
    if (spec.empty()) return nullptr;
    SharedFormat format = make_format(spec, "--format");
    if (format->info().layout == LayoutId::k_sparse) return format;
    if (layout_info(format->info().layout).block_elements == 1) return nullptr;
    throw Error(Exit::kUsage, "--format", "'" + escaped(spec) + "' is not for pruned matrices",
                "give f32, f16, bf16 or sparse, and quantize the output");
}

void keep_larger(Plan& plan, const Plan& other) {
    if (other.total_bytes(Tier::kRam) > plan.total_bytes(Tier::kRam)) plan = other;
}

}  // namespace

struct PruneJob::State {
    PruneOptions options;
    std::string version, output;
    std::unique_ptr<Pruner> pruner;
    Needs needs;
    SharedFormat sparse;  // of matrices that are pruned; null: they are stored as any other
    std::unique_ptr<ModelSource> source;
    std::optional<eval::CheckedTexts> texts;  // what the method and the measure look at
    std::vector<std::string> inputs;          // files
    std::vector<std::regex> only;
    Thresholds thresholds;  // made here: zeros until they are
    RunnerOptions looking, checking;
    PruneReport report;
    // Of pruned matrices, where no one knows beforehand how many weights stay.
    std::map<std::string, std::unique_ptr<Fitting>> fittings;

    State(const PruneOptions& o, std::string_view v);
    void read_rules();
    [[nodiscard]] ModelWriter::Setup writer_setup(Isa isa, const ModelSource& from) const;
    [[nodiscard]] SharedFormat sparse_for(const SourceTensor& tensor) const;
    [[nodiscard]] bool is_fitted() const;
    [[nodiscard]] Metadata metadata(const ModelWriter& writer, bool hash_inputs) const;
    [[nodiscard]] Plan plan_looking(const ModelWriter& writer, int threads) const;
    [[nodiscard]] Plan plan_checking(std::uint64_t output_bytes) const;
    [[nodiscard]] bool is_wanted(const std::string& tensor) const;
    [[nodiscard]] std::optional<Kept> columns_of(const SourceTensor& tensor) const;
    void write_layers(const ModelWriter& writer, TensorWriter& out, Runner* runner,
                      EditedLayer& layer, const Exec& exec, const Progress& progress);
    void edit(EditedLayer& layer, const InputTap* tap, const Exec& exec);
    void write(Team& team, Isa isa, const std::string& path, const Progress& progress);
    [[nodiscard]] Texts check_texts() const;
    void write_pruned(Team& team, Isa isa, const std::string& path, const Progress& progress);
    void write_sparse(Team& team, Isa isa, const std::string& plain, const std::string& path,
                      const Progress& progress);
    void check(Team& team, const std::string& path, const Progress& progress);
};

PruneJob::State::State(const PruneOptions& o, std::string_view v)
    : options(o),
      version(v),
      output(o.output_path()),
      pruner(make_pruner(o.method, "--method")),
      needs(pruner->needs()),
      sparse(sparse_format(o.format)),
      source(ModelSource::open(o.model)) {
    if (sparse && !needs.edits) {
        throw Error(Exit::kUsage, "--format",
                    "'" + escaped(options.method) + "' zeroes no single weights",
                    "give f32, f16 or bf16");
    }
    if (needs.text() && options.file.empty()) {
        throw Error(Exit::kUsage, "--file",
                    "'" + escaped(options.method) +
                        "' measures importance on a text, and there "
                        "is none",
                    "give -f FILE");
    }
    if (needs.thresholds) {
        source->drop_thresholds();  // others take their place
        thresholds = blank_thresholds(*source);
    }
    read_rules();
    texts.emplace(options, source->file());
    report.calibration_tokens = needs.text() ? tokens_of(texts->windows()) : 0;
    if (options.max_kld > 0 && !texts->checks()) {
        throw Error(Exit::kUsage, "--max-kld", "there is no text to measure the divergence on",
                    "give --check-file FILE, or -f FILE and --check-chunks N");
    }
    inputs = source->file().files();
    if (!options.file.empty()) inputs.push_back(options.file);
    refuse_overwriting_inputs(output, inputs);
    if (options.max_kld > 0 && needs.tokens) {
        throw Error(Exit::kUsage, "--max-kld", "models of different vocabularies do not compare",
                    "bits per byte are measured; evaluate --assert gates on them");
    }
    looking.isa = checking.isa = Isa::kPortable;
    looking.activations = checking.activations = Activations::kF32;
    looking.kv = {.type_k = "f16",
                  .type_v = "f16",
                  .context_tokens = std::max(texts->longest(), needs.writes)};
    looking.step_tokens = std::min(kStepTokens, texts->longest());
    checking.kv = {.type_k = "f16", .type_v = "f16", .context_tokens = options.context_tokens};
    checking.step_tokens = std::min(kStepTokens, options.context_tokens);
    report.before = source->config();
    report.input_bytes = source->file().file_bytes();
}

void PruneJob::State::read_rules() {
    if (options.only.empty()) return;
    if (!needs.edits) {
        throw Error(Exit::kUsage, "--only",
                    "'" + escaped(options.method) + "' zeroes no single weights");
    }
    for (const std::string& rule : options.only) {
        try {
            only.emplace_back(rule);
        } catch (const std::regex_error& e) {
            throw Error(Exit::kUsage, "--only", "'" + escaped(rule) + "': " + e.what());
        }
        std::vector<std::string> names;
        bool hit = false;
        for (const SourceTensor& tensor : source->tensors()) {
            if (!tensor.is_matrix || !tensor.name.starts_with("blk.")) continue;
            names.push_back(tensor.name);
            hit = hit || std::regex_search(tensor.name, only.back());
        }
        if (!hit) {
            throw Error(Exit::kUsage, "--only",
                        "'" + escaped(rule) + "' finds no matrix of a layer",
                        did_you_mean(rule, names));
        }
    }
}

ModelWriter::Setup PruneJob::State::writer_setup(Isa isa, const ModelSource& from) const {
    ModelWriter::Setup setup;
    setup.source = &from;
    if (sparse) {
        setup.format_of = [this](const SourceTensor& tensor) { return sparse_for(tensor); };
    } else if (!options.format.empty()) {
        setup.format = make_format(options.format, "--format");
    }
    setup.edits = needs.edits, setup.refits = needs.refits;
    setup.isa = isa;
    return setup;
}

// Whether the weights that stay are counted, and not known from what is asked for.
bool PruneJob::State::is_fitted() const {
    return sparse && sparse->fitting({1, 32}) && pruner->most_kept(32) == 0;
}

// With room for as many weights as stay.
SharedFormat PruneJob::State::sparse_for(const SourceTensor& tensor) const {
    const bool pruned =
        tensor.is_matrix && tensor.name.starts_with("blk.") && is_wanted(tensor.name);
    if (!pruned) return nullptr;
    if (const int whole = sparse->info().block_elements; tensor.cols() % whole != 0) {
        throw Error(Exit::kUsage, "tensor '" + tensor.name + "'",
                    "has rows of " + std::to_string(tensor.cols()) + " weights, no multiple of " +
                        std::to_string(whole) + ", as sparse ones are",
                    "leave it out: --only");
    }
    if (const auto fitting = fittings.find(tensor.name); fitting != fittings.end())
        return fitting->second->fitted();
    const std::int64_t kept = pruner->most_kept(tensor.cols());
    if (kept == 0 || !sparse->fitting({tensor.rows(), tensor.cols()})) return sparse;
    return sparse->with("slots=" + std::to_string(kept), "--format");
}

Metadata PruneJob::State::metadata(const ModelWriter& writer, bool hash_inputs) const {
    Metadata out = writer.metadata();
    if (needs.thresholds) write_thresholds(thresholds, options.method, out);
    PruneOptions recorded = options;
    append_step(out, {"prune", version, [&](OptionVisitor& v) { recorded.visit(v); }, inputs},
                hash_inputs);
    return out;
}

Plan PruneJob::State::plan_looking(const ModelWriter& writer, int threads) const {
    Plan plan;
    std::uint64_t& io = plan.at(Tier::kRam, Purpose::kIo);
    if (needs.runs()) {
        Runner::add_to_plan(plan, *source, looking, std::max(texts->longest(), needs.writes), 1,
                            needs.writes > 0 ? 1 : 0);
        Calibration::add_to_plan(plan, *source, needs, tokens_of(texts->windows()),
                                 texts->longest());
    }
    if (needs.thresholds)
        add_thresholds_to_plan(plan, *source, tokens_of(texts->windows()), texts->longest());
    // The source's, and the output's.
    plan.at(Tier::kRam, Purpose::kVocabulary) += 2 * source->file().metadata().memory_bytes();
    if (needs.by_layer()) {
        plan.at(Tier::kRam, Purpose::kWeights) +=
            Buffer::charged_bytes(EditedLayer::layer_bytes(*source));
        std::uint64_t& held = plan.at(Tier::kRam, Purpose::kActivations);
        held += InputTap::bytes(*source, {needs.squares, needs.gram});
        if (needs.runs()) {
            held += 2 * Buffer::charged_bytes(static_cast<std::size_t>(tokens_of(texts->windows()) *
                                                                       source->spec().hidden) *
                                              sizeof(float));
        }
        Shape2 largest;
        for (const SourceTensor& tensor : source->tensors()) {
            if (!tensor.is_matrix || !tensor.name.starts_with("blk.")) continue;
            largest.rows = std::max(largest.rows, tensor.rows());
            largest.cols = std::max(largest.cols, tensor.cols());
        }
        plan.at(Tier::kRam, Purpose::kOther) += pruner->prune_bytes(largest);
    }
    io += std::max<std::uint64_t>(writer.buffer_bytes(threads), kHashBufferBytes);
    io += GgufWriter::predict(metadata(writer, false), writer.specs()).header_bytes;
    return plan;
}

Plan PruneJob::State::plan_checking(std::uint64_t output_bytes) const {
    Plan plan;
    const std::int64_t rows =
        eval::rows_per_piece(source->spec(), checking, texts->checks()->rows(), true);
    for (int model = 0; model < 2; ++model)
        Runner::add_to_plan(plan, *source, checking, options.context_tokens, 1, rows);
    if (output_bytes > report.input_bytes && checking.weight_bytes == UINT64_MAX)
        plan.at(Tier::kRam, Purpose::kWeights) += output_bytes - report.input_bytes;
    plan.at(Tier::kRam, Purpose::kVocabulary) += 2 * source->file().metadata().memory_bytes();
    if (needs.thresholds)
        add_thresholds_to_plan(plan, *source, options.context_tokens, options.context_tokens);
    eval::add_quality_to_plan(plan, source->spec(), checking, texts->checks()->count(),
                              options.context_tokens);
    return plan;
}

Plan PruneJob::plan(int threads, Isa isa, std::uint64_t baseline_bytes,
                    std::optional<std::uint64_t> ram_limit_bytes) {
    State& s = *state_;
    s.looking.isa = s.checking.isa = isa;
    if (s.needs.by_layer()) s.looking.weight_bytes = 0;  // one layer at a time, held elsewhere
    const ModelWriter writer(s.pruner->most(s.source->config()), s.writer_setup(isa, *s.source));
    const std::uint64_t bytes =
        GgufWriter::predict(s.metadata(writer, false), writer.specs()).file_bytes;
    const auto limit = ram_limit_bytes.value_or(UINT64_MAX);
    const auto whole = [&] {
        Plan plan = s.plan_looking(writer, threads);
        if (s.texts->checks()) keep_larger(plan, s.plan_checking(bytes));
        plan.at(Tier::kRam, Purpose::kIo) += s.texts->bytes();
        const std::uint64_t first = s.texts->peak_bytes(), later = plan.total_bytes(Tier::kRam);
        if (first > later) plan.at(Tier::kRam, Purpose::kVocabulary) += first - later;
        return plan;
    };
    Plan plan = whole();
    if (plan.total_bytes(Tier::kRam) + baseline_bytes > limit) {
        s.looking.weight_bytes = s.checking.weight_bytes = 0;
        plan = whole();
    }
    plan.at(Tier::kDisk, Purpose::kWeights) = bytes;
    plan.output_bytes = bytes;
    if (s.is_fitted()) {
        ModelWriter::Setup setup = s.writer_setup(isa, *s.source);
        setup.format_of = nullptr;
        const ModelWriter plain(s.pruner->most(s.source->config()), setup);
        plan.at(Tier::kDisk, Purpose::kWeights) +=
            GgufWriter::predict(plain.metadata(), plain.specs()).file_bytes;
        plan.notes.emplace_back(
            "how many weights of a row stay is not known beforehand: the output is at most that "
            "large, and a file of all weights lies beside it until it is done");
    }
    if (s.needs.text()) {
        plan.notes.push_back(std::to_string(s.texts->windows().size()) + " windows, " +
                             std::to_string(tokens_of(s.texts->windows())) + " tokens, to look at");
    }
    if (s.texts->checks()) {
        plan.notes.push_back(std::to_string(s.texts->checks()->count()) +
                             " windows to measure quality on, before and after");
    }
    plan.cheapest_change = "fewer --chunks and --check-chunks, or a smaller --ctx-size";
    return plan;
}

bool PruneJob::State::is_wanted(const std::string& tensor) const {
    return only.empty() || std::any_of(only.begin(), only.end(), [&](const std::regex& rule) {
               return std::regex_search(tensor, rule);
           });
}

std::optional<Kept> PruneJob::State::columns_of(const SourceTensor& tensor) const {
    return kept_of(tensor.rule->cols, tensor.layer, report.cut, report.before);
}

void PruneJob::State::edit(EditedLayer& layer, const InputTap* tap, const Exec& exec) {
    const UnitSpec& unit = layer.unit();
    for (std::size_t m = 0; m < unit.matrices.size(); ++m) {
        const SourceTensor& tensor = *unit.matrices[m].weight;
        const std::span<float> weights = layer.weights(m);
        const std::optional<Kept> cols = columns_of(tensor);
        if (is_wanted(tensor.name) && (needs.edits || cols)) {
            const std::vector<double> squares = tap ? tap->squares(m) : std::vector<double>{};
            pruner->prune({tensor.name,
                           {tensor.rows(), tensor.cols()},
                           weights,
                           squares,
                           tap ? tap->gram(m) : std::span<const float>{},
                           cols,
                           exec});
        }
        if (!needs.edits) continue;
        report.zeros.push_back(
            {tensor.name, weights.size(), zeros_in(weights), !sparse || !is_wanted(tensor.name)});
        if (!is_fitted() || !is_wanted(tensor.name)) continue;
        auto& fitting = fittings[tensor.name];
        fitting = sparse->fitting({tensor.rows(), tensor.cols()});
        fitting->see(weights);
    }
}

// Each layer is looked at with what the layers before it, pruned, leave, then pruned and run again.
void PruneJob::State::write_layers(const ModelWriter& writer, TensorWriter& out, Runner* runner,
                                   EditedLayer& layer, const Exec& exec, const Progress& progress) {
    const bool looks = needs.runs();
    const ModelSource& from = runner ? runner->source() : *source;
    const std::int64_t hidden = from.spec().hidden,
                       tokens = looks ? tokens_of(texts->windows()) : 0;
    const auto bytes = static_cast<std::size_t>(tokens * hidden) * sizeof(float);
    Buffer states(bytes, Purpose::kActivations), passed(bytes, Purpose::kActivations);
    const View x = {states.data(), DType::kF32, tokens, hidden, hidden};
    const View y = {passed.data(), DType::kF32, tokens, hidden, hidden};
    InputTap tap(exec, {needs.squares, needs.gram}, [&](std::size_t matrix) {
        const SourceTensor& tensor = *layer.unit().matrices[matrix].weight;
        return needs.edits ? is_wanted(tensor.name) : columns_of(tensor).has_value();
    });
    if (looks) runner->embed(texts->windows(), x);
    for (std::int64_t l = 0; l < from.spec().layers; ++l) {
        layer.open(l, *exec.team);
        if (looks) {
            std::memcpy(passed.data(), states.data(), bytes);
            tap.clear();
            runner->sweep_layer(l, texts->windows(), y, &tap);
        }
        edit(layer, looks ? &tap : nullptr, exec);
        for (const OutputTensor& tensor : writer.tensors()) {
            if (!tensor.edited || tensor.from->layer != l) continue;
            const auto& matrices = layer.unit().matrices;
            const auto at = std::find_if(matrices.begin(), matrices.end(), [&](const auto& m) {
                return m.weight->name == tensor.from->name;
            });
            writer.store(tensor, layer.weights(static_cast<std::size_t>(at - matrices.begin())),
                         out, *exec.team);
        }
        if (looks && l + 1 < from.spec().layers)
            runner->sweep_layer(l, texts->windows(), x, nullptr);
        if (!progress("prune", l + 1, from.spec().layers)) throw Stopped();
    }
}

void PruneJob::State::write(Team& team, Isa isa, const std::string& path,
                            const Progress& progress) {
    if (!is_fitted()) return write_pruned(team, isa, path, progress);
    // Headers come first: weights are counted while they are written as any others.
    const UncheckedFile plain(output + ".plain");
    write_pruned(team, isa, plain.path(), progress);
    write_sparse(team, isa, plain.path(), path, progress);
}

// Rewrites the pruned matrices of a file without zeros.
void PruneJob::State::write_sparse(Team& team, Isa isa, const std::string& plain,
                                   const std::string& path, const Progress& progress) {
    const std::unique_ptr<ModelSource> from = ModelSource::open(plain);
    ModelWriter::Setup setup = writer_setup(isa, *from);
    setup.edits = false;
    const ModelWriter writer(whole(from->config()), setup);
    const IfExists if_exists =
        options.overwrite || path != output ? IfExists::kReplace : IfExists::kRefuse;
    for (Zeros& zeros : report.zeros) {
        const auto fitting = fittings.find(zeros.tensor);
        if (fitting == fittings.end()) continue;
        zeros.stored = fitting->second->fitted()->info().layout != LayoutId::k_sparse;
    }
    GgufWriter out(path, metadata(writer, true), writer.specs(), if_exists);
    const Charge rows(Tier::kRam, Purpose::kIo, writer.buffer_bytes(team.threads()));
    const Charge disk(Tier::kDisk, Purpose::kWeights, out.file_bytes());
    report.output_bytes = out.file_bytes();
    std::int64_t done = 0;
    for (const OutputTensor& tensor : writer.tensors()) {
        writer.copy(tensor, out, team);
        if (!progress("write", ++done, std::ssize(writer.tensors()))) throw Stopped();
    }
    out.finish();
}

void PruneJob::State::write_pruned(Team& team, Isa isa, const std::string& path,
                                   const Progress& progress) {
    std::unique_ptr<Runner> runner;
    std::unique_ptr<EditedLayer> alone;  // of a method that runs nothing
    EditedLayer* layer = nullptr;
    if (needs.runs()) {
        if (needs.by_layer()) {
            looking.store = [&](const ModelSource& from, const Exec& exec) {
                auto made = std::make_unique<EditedLayer>(
                    make_store(from, exec, {true, looking.weight_bytes}), from);
                layer = made.get();
                return made;
            };
        }
        runner = std::make_unique<Runner>(std::move(source), looking, team);
    } else if (needs.by_layer()) {
        alone = std::make_unique<EditedLayer>(nullptr, *source);
        layer = alone.get();
    }
    const ModelSource& from = runner ? runner->source() : *source;
    Calibration looks(from, runner.get(), team, texts->windows(), progress);
    report.cut = pruner->cut(looks);
    if (needs.thresholds) {
        thresholds = measure_thresholds(*runner, texts->windows(), pruner->thresholds(), progress);
    }
    ModelWriter::Setup setup = writer_setup(isa, from);
    if (sparse) {
        const auto format_of = std::exchange(setup.format_of, nullptr);
        const ModelWriter plain(report.cut, setup);
        report.plain_bytes = GgufWriter::predict(metadata(plain, false), plain.specs()).file_bytes;
        if (!is_fitted()) setup.format_of = format_of;
    }
    const ModelWriter writer(report.cut, setup);
    report.after = config_after(report.cut, from.config());
    const IfExists if_exists =
        options.overwrite || path != output ? IfExists::kReplace : IfExists::kRefuse;
    const Metadata described = is_fitted() ? writer.metadata() : metadata(writer, true);
    GgufWriter out(path, described, writer.specs(), if_exists);
    const Charge rows(Tier::kRam, Purpose::kIo, writer.buffer_bytes(team.threads()));
    const Charge disk(Tier::kDisk, Purpose::kWeights, out.file_bytes());
    report.output_bytes = out.file_bytes();
    Exec exec;
    exec.isa = isa, exec.team = &team, exec.activations = Activations::kF32;
    if (layer) write_layers(writer, out, runner.get(), *layer, exec, progress);
    std::int64_t done = 0;
    for (const OutputTensor& tensor : writer.tensors()) {
        if (!tensor.edited) writer.copy(tensor, out, team);
        if (!progress("write", ++done, std::ssize(writer.tensors()))) throw Stopped();
    }
    out.finish();
}

// The windows that quality is measured on.
Texts PruneJob::State::check_texts() const {
    Texts out;
    for (std::int64_t w = 0; w < texts->checks()->count(); ++w)
        out.push_back(texts->checks()->inputs(w));
    return out;
}

void PruneJob::State::check(Team& team, const std::string& path, const Progress& progress) {
    Runner pruned(ModelSource::open(path), checking, team);
    std::unique_ptr<ModelSource> dense = ModelSource::open(options.model);
    if (needs.thresholds) dense->drop_thresholds();
    Runner original(std::move(dense), checking, team);
    if (report.cut.tokens) {
        const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(original.source().file());
        std::vector<Token> tokens;
        for (std::int64_t w = 0; w < texts->checks()->count(); ++w) {
            const auto window = texts->checks()->inputs(w);
            tokens.insert(tokens.end(), window.begin(), window.end());
            tokens.push_back(texts->checks()->target(w, texts->checks()->context() - 2));
        }
        const std::string words = tokenizer->decode(tokens);
        report.quality.emplace();
        report.quality->bits_before =
            eval::measure_bits(original, words, options.context_tokens, progress);
        report.quality->bits_after =
            eval::measure_bits(pruned, words, options.context_tokens, progress);
        return;
    }
    report.quality = eval::measure_quality(pruned, original, *texts->checks(), progress);
    if (needs.thresholds) report.dropped = measure_dropped(pruned, check_texts(), progress);
    eval::check_divergence(*report.quality, options.max_kld, "prune less");
}

PruneJob::PruneJob(const PruneOptions& options, std::string_view version)
    : state_(std::make_unique<State>(options, version)) {}
PruneJob::~PruneJob() = default;

bool PruneJob::run(Team& team, Isa isa, const Progress& progress) {
    State& s = *state_;
    if (!s.options.overwrite && std::filesystem::exists(s.output)) {
        throw Error(Exit::kCannotCreate, escaped(s.output, 1024), "the output exists",
                    "give --overwrite to replace it");
    }
    try {
        if (!s.texts->checks()) {
            s.write(team, isa, s.output, progress);
            return true;
        }
        UncheckedFile made(s.output + ".unchecked");
        s.write(team, isa, made.path(), progress);
        s.check(team, made.path(), progress);
        made.accept(s.output);
    } catch (const Stopped&) {
        return false;
    }
    return true;
}

const PruneReport& PruneJob::report() const noexcept { return state_->report; }
const std::string& PruneJob::output_path() const noexcept { return state_->output; }

}  // namespace thimble::prune
