// SPDX-License-Identifier: Apache-2.0
#include "compress/stack_job.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "calib/calibration_text.h"
#include "calib/collector.h"
#include "calib/column_importance.h"
#include "compress/stack_encoder.h"
#include "compress/stack_order.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/gguf_writer.h"
#include "io/provenance.h"
#include "text/tokenizer.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

bool in_blocks(const SourceTensor& tensor) {
    return tensor.is_matrix && tensor.name.starts_with("blk.");
}

// Whether the container's bytes are the canonical tensor's.
bool stored_plainly(const SourceTensor& tensor) {
    return tensor.entry != nullptr && !tensor.source_row && tensor.add == 0 &&
           static_cast<std::uint32_t>(tensor.entry->type) < kFirstSafetensorsType;
}

}  // namespace

struct StackJob::State {
    State(const StackOptions& o, std::string_view v)
        : options(o), version(v), source(ModelSource::open(o.model)) {}

    // A tensor of the output that is no block.
    struct Copied {
        const SourceTensor* source = nullptr;
        std::size_t spec = 0;
    };
    struct StackedLinear {
        const SourceTensor* source = nullptr;
        StackForm form;
    };
    StackOptions options;
    std::string version;
    std::unique_ptr<ModelSource> source;
    std::optional<CalibrationText> text;
    std::uint64_t text_bytes = 0;  // while it was read
    std::optional<ColumnImportance> importance;
    std::vector<Copied> copied;
    std::vector<StackedLinear> linears;
    std::vector<StackReport> reports;
    std::uint64_t output_bytes = 0, least_bytes = 0;
    const Progress* progress = nullptr;

    [[nodiscard]] bool measures() const { return options.order == "ppl"; }
    [[nodiscard]] std::uint64_t disk_bytes() const {
        return measures() ? 2 * output_bytes : output_bytes;
    }

    [[nodiscard]] std::vector<std::string> inputs() const;
    void read_text();
    void choose();
    // Level by level, as the model lists its matrices.
    [[nodiscard]] std::vector<std::int32_t> plain_order() const;
    [[nodiscard]] std::vector<TensorSpec> specs(std::span<const std::int32_t> order) const;
    [[nodiscard]] Metadata metadata(const std::vector<std::int32_t>& order, bool hash_inputs) const;
    [[nodiscard]] RunnerOptions runner_options(Isa isa) const;
    [[nodiscard]] std::span<const std::span<const Token>> order_texts(
        const std::vector<std::span<const Token>>& windows) const;

    [[nodiscard]] bool collect(Team& team, Isa isa);
    [[nodiscard]] bool encode(const Exec& exec, GgufWriter& writer);
    void copy(const Copied& tensor, GgufWriter& writer) const;
    [[nodiscard]] std::vector<float> weights(const SourceTensor& tensor) const;
    void encode(std::size_t i, const Exec& exec, GgufWriter& writer);
    [[nodiscard]] std::optional<std::vector<std::int32_t>> measured_order(const std::string& blocks,
                                                                          Team& team,
                                                                          Isa isa) const;
    void arrange(const std::string& blocks, const std::vector<std::int32_t>& order);
};

std::vector<std::string> StackJob::State::inputs() const {
    std::vector<std::string> files = source->file().files();
    for (const std::string& file : {options.imatrix, options.calibration})
        if (!file.empty()) files.push_back(file);
    return files;
}

void StackJob::State::read_text() {
    if (options.calibration.empty()) {
        if (!measures()) return;
        throw Error(Exit::kUsage, "--order", "perplexity is measured on a text",
                    "give --calibration FILE, or --order layers");
    }
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(source->file());
    text.emplace(CalibrationOptions{.file = options.calibration,
                                    .chat_template = {},
                                    .context_tokens = options.chunk_tokens},
                 *tokenizer);
    text_bytes =
        Tokenizer::predict_bytes(source->file()) + Tokenizer::scratch_bytes() + text->peak_bytes();
}

void StackJob::State::choose() {
    for (const SourceTensor& tensor : source->tensors()) {
        if (!in_blocks(tensor)) {
            copied.push_back({&tensor, copied.size()});
            continue;
        }
        const Shape2 shape{tensor.rows(), tensor.cols()};
        const std::int64_t rank = std::min({options.rank, shape.rows, shape.cols});
        linears.push_back({&tensor, StackForm(shape, rank)});
        reports.push_back({tensor.name,
                           static_cast<std::uint64_t>(shape.rows * shape.cols),
                           linears.back().form.bytes,
                           false,
                           {}});
    }
    if (linears.empty())
        throw Error(Exit::kUsage, escaped(options.model, 1024), "has no layers with matrices");
}

std::vector<std::int32_t> StackJob::State::plain_order() const {
    return order_by_layers(linears.size(), options.levels);
}

// What is copied, then the blocks in their order, so that a beginning of the order is one of the
// file.
std::vector<TensorSpec> StackJob::State::specs(std::span<const std::int32_t> order) const {
    std::vector<TensorSpec> out;
    for (const Copied& c : copied) {
        const TensorType type =
            stored_plainly(*c.source) ? c.source->entry->type : TensorType::kF32;
        out.push_back({c.source->name, type, c.source->dims});
    }
    std::vector<std::int64_t> levels(linears.size());
    for (const std::int32_t i : order) {
        const StackedLinear& linear = linears[static_cast<std::size_t>(i)];
        out.push_back({stack_block_name(linear.source->name, levels[static_cast<std::size_t>(i)]++),
                       TensorType::kI8,
                       {linear.form.bytes}});
    }
    return out;
}

Metadata StackJob::State::metadata(const std::vector<std::int32_t>& order, bool hash_inputs) const {
    Metadata out = source->gguf_metadata();
    if (source->file().container() == Container::kHuggingFace)
        Tokenizer::open(source->file())->write_vocabulary(out);
    for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.file_type",
                            "general.quantization_version"})
        out.erase(key);
    std::vector<std::string> names;
    for (const StackedLinear& linear : linears) {
        out.set(std::string(kFormatKey) + linear.source->name,
                describe_stack(linear.form, options.levels));
        names.push_back(linear.source->name);
    }
    out.set(std::string(kStackLinearsKey),
            std::make_shared<const MetaArray>(MetaArray{std::move(names)}));
    out.set(std::string(kStackOrderKey), std::make_shared<const MetaArray>(MetaArray{order}));
    StackOptions recorded = options;
    const std::vector<std::string> files = inputs();
    append_step(out, {"compress", version, [&](OptionVisitor& v) { recorded.visit(v); }, files},
                hash_inputs);
    return out;
}

StackJob::StackJob(const StackOptions& options, std::string_view version)
    : state_(std::make_unique<State>(options, version)) {
    State& s = *state_;
    refuse_overwriting_inputs(options.output, s.inputs());
    if (any_stacked(*s.source))
        throw Error(Exit::kUsage, escaped(options.model, 1024), "is in blocks already");
    if (!options.imatrix.empty())
        s.importance.emplace(read_importance(options.imatrix), *s.source, options.imatrix);
    s.read_text();
    s.choose();
    const std::vector<std::int32_t> order = s.plain_order();
    s.output_bytes = GgufWriter::predict(s.metadata(order, false), s.specs(order)).file_bytes;
    s.least_bytes = s.output_bytes;
    for (const State::StackedLinear& linear : s.linears)
        s.least_bytes -= static_cast<std::uint64_t>(options.levels - 1) * linear.form.bytes;
}

StackJob::~StackJob() = default;

RunnerOptions StackJob::State::runner_options(Isa isa) const {
    RunnerOptions out;
    out.isa = isa;
    out.activations = Activations::kF32;
    out.kv = {.type_k = "f16", .type_v = "f16", .context_tokens = options.chunk_tokens};
    out.step_tokens = std::min<std::int64_t>(512, options.chunk_tokens);
    return out;
}

// The last windows: those that are collected from come first.
std::span<const std::span<const Token>> StackJob::State::order_texts(
    const std::vector<std::span<const Token>>& windows) const {
    const auto count = std::min(windows.size(), static_cast<std::size_t>(options.order_chunks));
    return std::span(windows).last(count);
}

// The hungriest of what is done one after the other.
Plan StackJob::plan() {
    State& s = *state_;
    const std::vector<std::int32_t> order = s.plain_order();
    const GgufWriter::Prediction size =
        GgufWriter::predict(s.metadata(order, false), s.specs(order));
    std::vector<Plan> phases(1);
    std::uint64_t most = kPieceBytes;
    for (const State::StackedLinear& linear : s.linears)
        most = std::max(most, StackEncoder::bytes(linear.form) + linear.form.bytes);
    phases[0].at(Tier::kRam, Purpose::kOther) = most;
    if (s.text) {
        Plan collect;
        const RunnerOptions runner = s.runner_options(Isa::kPortable);
        Runner::add_to_plan(collect, *s.source, runner, s.options.chunk_tokens, 1,
                            s.measures() ? s.options.chunk_tokens : 0);
        Plan measure = collect;
        add_collection_to_plan(collect, *s.source, Device::kCpu, s.options.chunk_tokens, false);
        // All blocks in place of the weights.
        measure.at(Tier::kRam, Purpose::kWeights) = size.file_bytes + (std::uint64_t{2} << 20);
        if (!s.importance) phases.push_back(collect);
        if (s.measures()) phases.push_back(measure);
    }
    Plan plan = *std::ranges::max_element(phases, {},
                                          [](const Plan& p) { return p.total_bytes(Tier::kRam); });
    if (s.importance) plan.at(Tier::kRam, Purpose::kOther) += s.importance->bytes();
    if (s.text) plan.at(Tier::kRam, Purpose::kIo) += s.text->bytes();
    plan.at(Tier::kRam, Purpose::kVocabulary) += 3 * s.source->file().metadata().memory_bytes();
    plan.at(Tier::kRam, Purpose::kIo) += 2 * size.header_bytes;
    const std::uint64_t later = plan.total_bytes(Tier::kRam);
    if (s.text_bytes > later) plan.at(Tier::kRam, Purpose::kVocabulary) += s.text_bytes - later;
    plan.at(Tier::kDisk, Purpose::kWeights) = s.disk_bytes();
    plan.output_bytes = size.file_bytes;
    if (s.measures()) {
        plan.notes.push_back(
            "blocks lie in a second file of the same size until their order is known");
    }
    plan.notes.push_back("with one block of each matrix the weights are " +
                         format_bytes(s.least_bytes));
    return plan;
}

// fn(first row, rows, their count) for pieces of a tensor, as F32.
template <class Fn>
static void for_rows_of(const ModelSource& source, const SourceTensor& tensor, Fn&& fn) {
    const auto row_bytes = static_cast<std::size_t>(tensor.cols()) * sizeof(float);
    const auto step = std::max<std::int64_t>(static_cast<std::int64_t>(kPieceBytes / row_bytes), 1);
    std::vector<float> rows;
    std::vector<std::byte> scratch;
    for (std::int64_t first = 0; first < tensor.rows(); first += step) {
        const std::int64_t count = std::min(step, tensor.rows() - first);
        rows.resize(static_cast<std::size_t>(count * tensor.cols()));
        source.read_rows(tensor, first, count, rows.data(), scratch);
        fn(first, rows);
    }
}

void StackJob::State::copy(const Copied& tensor, GgufWriter& writer) const {
    const SourceTensor& from = *tensor.source;
    if (!stored_plainly(from)) {
        const auto row_bytes = static_cast<std::uint64_t>(from.cols()) * sizeof(float);
        for_rows_of(*source, from, [&](std::int64_t first, const std::vector<float>& rows) {
            writer.write(tensor.spec, static_cast<std::uint64_t>(first) * row_bytes,
                         std::as_bytes(std::span(rows)));
        });
        return;
    }
    std::vector<std::byte> piece;
    for (std::uint64_t at = 0; at < from.entry->bytes; at += piece.size()) {
        piece.resize(std::min<std::uint64_t>(kPieceBytes, from.entry->bytes - at));
        source->file().read(*from.entry, at, piece);
        writer.write(tensor.spec, at, piece);
    }
}

std::vector<float> StackJob::State::weights(const SourceTensor& tensor) const {
    std::vector<float> out(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
    for_rows_of(*source, tensor, [&](std::int64_t first, const std::vector<float>& rows) {
        std::ranges::copy(rows, out.begin() + first * tensor.cols());
    });
    const auto bad = std::ranges::find_if_not(out, [](float x) { return std::isfinite(x); });
    if (bad != out.end()) {
        throw Error(Exit::kBadData, escaped(options.model, 1024),
                    "tensor '" + tensor.name + "', weight " + std::to_string(bad - out.begin()) +
                        " is not a finite number");
    }
    return out;
}

// The importance of columns, from the text.
bool StackJob::State::collect(Team& team, Isa isa) {
    Runner runner(ModelSource::open(options.model), runner_options(isa), team);
    std::vector<std::span<const Token>> windows = text->windows();
    const auto count = static_cast<std::size_t>(options.chunks);
    if (options.chunks >= 0 && count < windows.size()) windows.resize(count);
    auto matrix = collect_importance(
        runner, team, windows, {.group_tokens = options.chunk_tokens},
        [&](std::int64_t done, std::int64_t total) { return (*progress)("layers", done, total); });
    if (!matrix) return false;
    importance.emplace(std::move(*matrix), *source, options.calibration);
    return true;
}

void StackJob::State::encode(std::size_t i, const Exec& exec, GgufWriter& writer) {
    const StackedLinear& linear = linears[i];
    StackReport& report = reports[i];
    const Charge charge(Tier::kRam, Purpose::kOther,
                        StackEncoder::bytes(linear.form) + linear.form.bytes);
    std::vector<float> scales;
    if (importance) scales = stack_scales(importance->of(*linear.source));
    report.scaled = !scales.empty();
    StackEncoder encoder(exec, linear.form, weights(*linear.source), scales);
    const double all = encoder.residual_square();
    std::vector<std::byte> block(linear.form.bytes);
    for (std::int64_t level = 0; level < options.levels; ++level) {
        encoder.next(block);
        writer.write(copied.size() + static_cast<std::size_t>(level) * linears.size() + i, 0,
                     block);
        report.errors.push_back(all > 0 ? std::sqrt(encoder.residual_square() / all) : 0);
    }
}

// All of the model, its blocks in the plain order.
bool StackJob::State::encode(const Exec& exec, GgufWriter& writer) {
    for (const Copied& tensor : copied) copy(tensor, writer);
    for (std::size_t i = 0; i < linears.size(); ++i) {
        if (!(*progress)("matrices", static_cast<std::int64_t>(i), std::ssize(linears)))
            return false;
        encode(i, exec, writer);
    }
    writer.finish();
    return (*progress)("matrices", std::ssize(linears), std::ssize(linears));
}

std::optional<std::vector<std::int32_t>> StackJob::State::measured_order(const std::string& blocks,
                                                                         Team& team,
                                                                         Isa isa) const {
    Runner runner(ModelSource::open(blocks), runner_options(isa), team);
    const std::vector<std::span<const Token>> windows = text->windows();
    return order_by_perplexity(
        runner, order_texts(windows),
        [&](std::int64_t done, std::int64_t total) { return (*progress)("steps", done, total); });
}

// The same model with its blocks in another order.
void StackJob::State::arrange(const std::string& blocks, const std::vector<std::int32_t>& order) {
    const std::unique_ptr<ModelFile> from = ModelFile::open(blocks);
    const std::vector<TensorSpec> wanted = specs(order);
    GgufWriter writer(options.output, metadata(order, true), wanted,
                      options.overwrite ? IfExists::kReplace : IfExists::kRefuse);
    std::vector<std::byte> piece;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const TensorEntry& tensor = from->get(wanted[i].name);
        for (std::uint64_t at = 0; at < tensor.bytes; at += piece.size()) {
            piece.resize(std::min<std::uint64_t>(kPieceBytes, tensor.bytes - at));
            from->read(tensor, at, piece);
            writer.write(i, at, piece);
        }
    }
    writer.finish();
}

bool StackJob::run(Team& team, Isa isa, const Progress& progress) {
    State& s = *state_;
    s.progress = &progress;
    const IfExists if_exists = s.options.overwrite ? IfExists::kReplace : IfExists::kRefuse;
    if (!s.options.overwrite && std::filesystem::exists(s.options.output)) {
        throw Error(Exit::kCannotCreate, escaped(s.options.output, 1024), "the output exists",
                    "give --overwrite to replace it");
    }
    check_can_create(s.options.output);
    if (!s.importance && s.text && !s.collect(team, isa)) return false;
    if (!s.importance)
        log_warning("neither --imatrix nor --calibration: all columns count the same");
    Exec exec;
    exec.isa = isa, exec.activations = Activations::kF32, exec.team = &team;
    const Charge disk(Tier::kDisk, Purpose::kWeights, s.disk_bytes());
    const std::vector<std::int32_t> order = s.plain_order();
    if (!s.measures()) {
        GgufWriter writer(s.options.output, s.metadata(order, true), s.specs(order), if_exists);
        return s.encode(exec, writer);
    }
    struct Removed {
        std::string path;
        ~Removed() {
            std::error_code ignored;
            std::filesystem::remove(path, ignored);
        }
    } const blocks{s.options.output + ".blocks"};
    GgufWriter writer(blocks.path, s.metadata(order, false), s.specs(order), IfExists::kReplace);
    if (!s.encode(exec, writer)) return false;
    const auto measured = s.measured_order(blocks.path, team, isa);
    if (!measured) return false;
    s.arrange(blocks.path, *measured);
    return true;
}

const std::vector<StackReport>& StackJob::reports() const noexcept { return state_->reports; }
std::uint64_t StackJob::input_bytes() const noexcept { return state_->source->file().file_bytes(); }
std::uint64_t StackJob::output_bytes() const noexcept { return state_->output_bytes; }
std::uint64_t StackJob::least_bytes() const noexcept { return state_->least_bytes; }

}  // namespace thimble
