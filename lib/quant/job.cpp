// SPDX-License-Identifier: Apache-2.0
#include "quant/job.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/strings.h"
#include "io/gguf_split.h"
#include "io/gguf_writer.h"
#include "io/provenance.h"
#include "io/sha256.h"
#include "model/hf_export.h"
#include "quant/hf_output.h"
#include "quant/importance.h"
#include "quant/name_rules.h"
#include "quant/reshard.h"
#include "quant/row_stream.h"
#include "text/tokenizer.h"

namespace thimble {
namespace {

constexpr std::size_t kSliceBytes = std::size_t{768} << 10;  // per worker: about a level-2 cache
constexpr std::uint32_t kQuantizationVersion = 2;            // of ggml's block layouts

// So that the rules themselves are recorded, wherever they came from.
QuantizeOptions with_file_rules(QuantizeOptions options) {
    if (options.tensor_type_file.empty()) return options;
    for (std::string& rule : read_name_rules(options.tensor_type_file))
        options.tensor_type.push_back(std::move(rule));
    return options;
}

constexpr std::uint64_t kShardBytes = 5'000'000'000;  // of a Hugging Face directory, unless told

// Fills in the format that is meant where none is given.
const QuantizeOptions& with_format(QuantizeOptions& options, const ModelSource& source) {
    if (!options.format.empty()) return options;
    const bool plain = std::all_of(source.tensors().begin(), source.tensors().end(),
                                   [](const SourceTensor& tensor) {
                                       return layout_info(tensor.layout()).block_elements == 1;
                                   });
    // Codes that others chose with care are kept.
    const bool packed =
        std::any_of(source.tensors().begin(), source.tensors().end(),
                    [](const SourceTensor& tensor) { return tensor.packed != nullptr; });
    options.format = options.wants_hf() ? (plain ? QuantizeOptions::kCopy : "f16")
                     : packed           ? QuantizeOptions::kCopy
                                        : "q8_0";
    return options;
}

void refuse_for_hf(const QuantizeOptions& options) {
    const char* flag = options.split_max_tensors > 0        ? "--split-max-tensors"
                       : !options.edits.override_kv.empty() ? "--override-kv"
                       : !options.edits.drop_kv.empty()     ? "--drop-kv"
                                                            : nullptr;
    if (flag != nullptr) throw Error(Exit::kUsage, flag, "is for GGUF only");
}

// "blk.17.attn_q.weight" -> "blk.*.attn_q.weight"
std::string without_layer(const std::string& name) {
    std::string out;
    for (const std::string& part : split(name, '.')) {
        const bool number = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
            return std::isdigit(static_cast<unsigned char>(c)) != 0;
        });
        out += (out.empty() ? "" : ".") + (number ? "*" : part);
    }
    return out;
}

std::uint64_t bytes_of(const TensorSpec& tensor) {
    const TensorTypeInfo& info = *find_tensor_type(tensor.type);
    std::uint64_t elements = 1;
    for (const std::uint64_t d : tensor.dims) elements *= d;
    return elements / info.block_elements * info.block_bytes;
}

// Whether the tensor is as large as its weights ask for.
bool waits_for_weights(const TensorChoice& choice) {
    return !choice.copied && choice.format->fitting({1, choice.tensor->cols()}) != nullptr;
}

// The tensors that a choice is stored as.
std::vector<TensorSpec> specs_of(const TensorChoice& choice) {
    if (has_planes(choice.layout())) return plane_specs(choice.tensor->name, written_form(choice));
    return {{choice.tensor->name, *tensor_type_of(choice.layout()), choice.tensor->dims}};
}

}  // namespace

struct QuantizeJob::State {
    QuantizeOptions options;
    std::string version, output;
    ModelSource source;
    AdapterMerge merge;
    Folding folding;
    std::vector<TensorChoice> choices;
    std::optional<ColumnImportance> importance;
    std::unique_ptr<HfOutput> hf;  // null: GGUF
    std::vector<TensorSpec> specs;
    std::vector<std::size_t> first_spec;  // of each choice
    std::vector<TensorReport> reports;
    Metadata base;                    // the output's, but for the step recorded last
    std::vector<std::string> edited;  // lines about keys that the user changes
    Charge vocabulary;                // what `base` holds beyond the source's own metadata
    std::uint64_t input_bytes = 0, output_bytes = 0, header_bytes = 0;
    std::uint64_t checkpoint_bytes = 0, resumed_bytes = 0;
    std::size_t slice = kSliceBytes;

    State(const QuantizeOptions& o, std::string_view v)
        : options(with_file_rules(o)),
          version(v),
          output(o.output_path()),
          source(ModelFile::open(o.model)),
          merge(options.adapters, source),
          folding(options, source),
          choices(choose_formats(source, with_format(options, source), merge, folding)),
          importance(load_importance(options, source)),
          checkpoint_bytes(parse_bytes(options.checkpoint_every, "--checkpoint-every")) {
        if (options.resume && options.measures_error()) {
            throw Error(Exit::kUsage, "--resume", "errors of tensors stored earlier are not known",
                        "compare afterwards: quantize inspect OUTPUT --reference MODEL");
        }
        if (importance) apply_importance(*importance, choices);
        require_importance(choices, options);
        if (!importance) return;
        folding.use(*importance);
        warn_of_importance(*importance, choices, options.imatrix);
    }

    [[nodiscard]] std::vector<std::string> input_files() const;
    void lay_out();
    void prepare_output();
    [[nodiscard]] bool load_changes(const TensorChoice& choice, RowStream& stream,
                                    const std::function<bool()>& go_on);
    [[nodiscard]] bool fit_formats(Team& team, Isa isa, const QuantizeEvents& events);
    [[nodiscard]] GgufSplit split() const;
    [[nodiscard]] GgufParts parts(const Metadata& metadata) const;
    [[nodiscard]] std::uint64_t shard_bytes() const;
    void make_base();
    [[nodiscard]] Metadata metadata(bool hash_inputs) const;
    [[nodiscard]] std::unique_ptr<TensorWriter> open_writer();
    struct Progress;
    [[nodiscard]] bool store(std::size_t i, Progress& p);
    [[nodiscard]] bool stopped(std::uint64_t input_done) const;
    void add_notes(Plan& plan) const;
    [[nodiscard]] std::size_t least_slice() const;
    [[nodiscard]] std::size_t most_slice() const;
};

// What the output holds, where, and how large it is.
void QuantizeJob::State::lay_out() {
    specs.clear(), first_spec.clear(), reports.clear();
    input_bytes = 0;
    for (const TensorChoice& choice : choices) {
        TensorReport report{&choice, choice.tensor->stored_bytes(), 0, {}, {}};
        first_spec.push_back(specs.size());
        for (TensorSpec& spec : specs_of(choice)) {
            report.bytes_out += bytes_of(spec);
            specs.push_back(std::move(spec));
        }
        input_bytes += report.bytes_in;
        reports.push_back(report);
    }
    make_base();
    prepare_output();
}

void QuantizeJob::State::make_base() {
    base = source.gguf_metadata();
    if (source.file().container() == Container::kHuggingFace && !hf) {
        Tokenizer::open(source.file())->write_vocabulary(base);
        vocabulary = Charge(Tier::kRam, Purpose::kVocabulary, base.memory_bytes());
    }
    for (const char* key : {"split.no", "split.count", "split.tensors.count"}) base.erase(key);

    for (const TensorChoice& choice : choices) {
        if (!has_planes(choice.layout())) continue;
        const SourceTensor& tensor = *choice.tensor;
        base.set(std::string(kFormatKey) + tensor.name,
                 describe_planes(written_form(choice), {tensor.rows(), tensor.cols()}));
    }

    edited = apply_edits(base, options.edits);
    if (options.copies() && source.file().container() == Container::kGguf) return;
    const auto number = file_type_of(options);
    if (!number) base.erase("general.file_type");
    if (number) base.set("general.file_type", *number);
    const bool quantised = std::any_of(choices.begin(), choices.end(), [](const TensorChoice& c) {
        return layout_info(c.layout()).block_elements > 1;
    });
    base.erase("general.quantization_version");
    if (quantised) base.set("general.quantization_version", kQuantizationVersion);
    if (importance) set_importance_keys(base, *importance, options.imatrix);
}

std::vector<std::string> QuantizeJob::State::input_files() const {
    std::vector<std::string> files = source.file().files();
    if (importance) files.push_back(options.imatrix);
    for (std::string& file : merge.files()) files.push_back(std::move(file));
    return files;
}

Metadata QuantizeJob::State::metadata(bool hash_inputs) const {
    Metadata out = base;
    QuantizeOptions recorded = options;
    const std::vector<std::string> files = input_files();
    ProvenanceStep step{"quantize", version, [&](OptionVisitor& v) { recorded.visit(v); }, files};
    for (const TensorChoice& c : choices) {
        if (c.requantized) ++step.requantized[std::string(layout_info(c.tensor->layout()).name)];
    }
    append_step(out, step, hash_inputs);
    return out;
}

GgufSplit QuantizeJob::State::split() const {
    GgufSplit split;
    if (!options.split_max_size.empty())
        split.max_bytes = parse_shard_size(options.split_max_size, "--split-max-size");
    split.max_tensors = static_cast<std::uint64_t>(options.split_max_tensors);
    return split;
}

GgufParts QuantizeJob::State::parts(const Metadata& metadata) const {
    const std::string prefix =
        output.ends_with(".gguf") ? output.substr(0, output.size() - 5) : output;
    return {prefix, metadata, specs, split()};
}

std::uint64_t QuantizeJob::State::shard_bytes() const {
    return split().max_bytes > 0 ? split().max_bytes : kShardBytes;
}

void QuantizeJob::State::prepare_output() {
    const Metadata planned = metadata(false);
    if (hf) {
        const HfOutput::Size size = hf->predict(output, specs, shard_bytes(), steps_text(planned));
        output_bytes = size.file_bytes;
        header_bytes = size.header_bytes;
    } else if (split().wanted()) {
        const GgufParts planned_parts = parts(planned);
        output_bytes = planned_parts.file_bytes();
        header_bytes = planned_parts.header_bytes();
        for (const std::string& path : planned_parts.paths())
            refuse_overwriting_inputs(path, input_files());
    } else {
        const GgufWriter::Prediction size = GgufWriter::predict(planned, specs);
        output_bytes = size.file_bytes;
        header_bytes = size.header_bytes;
    }
}

std::unique_ptr<TensorWriter> QuantizeJob::State::open_writer() {
    const IfExists if_exists = options.overwrite ? IfExists::kReplace : IfExists::kRefuse;
    const Metadata written = metadata(true);
    const std::string build = options.resume ? sha256_of_file("/proc/self/exe") : "";
    if (hf) return hf->open(output, specs, shard_bytes(), steps_text(written), if_exists, build);
    if (!split().wanted())
        return std::make_unique<GgufWriter>(output, written, specs, if_exists, build);
    GgufParts all = parts(written);
    output = all.parts.front().path;
    return std::make_unique<GgufSplitWriter>(std::move(all), if_exists, build);
}

// What a run says that was stopped with `input_done` of the input behind it.
bool QuantizeJob::State::stopped(std::uint64_t input_done) const {
    if (!options.resume) return false;
    throw Error(Exit::kAgain, escaped(output, 1024),
                "stopped after " + format_bytes(input_done) + " of " + format_bytes(input_bytes),
                "run the same command again to go on from there");
}

std::size_t QuantizeJob::State::least_slice() const {
    std::size_t least = 0;
    for (const TensorChoice& c : choices)
        least = std::max(least, slice_bytes(row_bytes(c, options.measures_error()), 1));
    return least;
}

std::size_t QuantizeJob::State::most_slice() const {
    std::size_t most = least_slice();  // no more than the largest tensor can fill
    for (const TensorChoice& c : choices) {
        const RowBytes row = row_bytes(c, options.measures_error());
        most = std::max(most, std::min(slice_bytes(row, c.tensor->rows()), kSliceBytes));
    }
    return most;
}

QuantizeJob::QuantizeJob(const QuantizeOptions& options, std::string_view version)
    : state_(std::make_unique<State>(options, version)) {
    State& s = *state_;
    refuse_overwriting_inputs(s.output, s.input_files());
    if (s.options.wants_hf()) {
        refuse_for_hf(s.options);
        s.hf = std::make_unique<HfOutput>(s.source, s.choices, s.options.copies());
    }
    s.folding.use(s.choices, s.hf != nullptr);
    s.lay_out();
}

QuantizeJob::~QuantizeJob() = default;

void QuantizeJob::State::add_notes(Plan& plan) const {
    struct Group {
        std::uint64_t tensors = 0, bytes = 0;
    };
    std::map<std::pair<std::string, std::string>, Group> exceptions;
    std::map<std::string, Group> formats;
    for (const TensorReport& r : reports) {
        const TensorChoice& c = *r.choice;
        const std::string format = c.format_name();
        Group& sum = formats[format];
        ++sum.tensors;
        sum.bytes += r.bytes_out;
        std::string reason = c.reason;
        if (!c.no_importance.empty()) {
            reason += (reason.empty() ? "" : "; ") + ("without importance: " + c.no_importance);
        }
        if (reason.empty()) continue;
        Group& group = exceptions[{without_layer(c.tensor->name) + " -> " + format, reason}];
        ++group.tensors;
        group.bytes += r.bytes_out;
    }
    plan.notes.insert(plan.notes.end(), edited.begin(), edited.end());
    if (hf && !hf->has_tokenizer())
        plan.notes.emplace_back("the source has no tokenizer: no tokenizer.json is written");
    if (std::any_of(choices.begin(), choices.end(), waits_for_weights))
        plan.notes.emplace_back(
            "sizes of sparse matrices are the most that they can be: the weights are looked at "
            "first, and then they are exact");
    const auto merged = std::count_if(choices.begin(), choices.end(),
                                      [](const TensorChoice& c) { return c.merged; });
    if (merged > 0) {
        plan.notes.push_back("adapters become part of " + std::to_string(merged) +
                             (merged == 1 ? " matrix" : " matrices"));
    }
    for (std::string& note : folding.notes()) plan.notes.push_back(std::move(note));
    for (const auto& [format, sum] : formats) {
        plan.notes.push_back(format + ": " + std::to_string(sum.tensors) + " tensors, " +
                             format_bytes(sum.bytes));
    }
    for (const auto& [what, sum] : exceptions) {
        plan.notes.push_back(what.first + " (" + std::to_string(sum.tensors) +
                             (sum.tensors == 1 ? " tensor): " : " tensors): ") + what.second);
    }
}

Plan QuantizeJob::plan(int threads, std::uint64_t baseline_bytes,
                       std::optional<std::uint64_t> ram_limit_bytes) {
    State& s = *state_;
    const auto workers = static_cast<std::uint64_t>(threads);
    Plan plan;
    std::uint64_t& vocabulary = plan.at(Tier::kRam, Purpose::kVocabulary);
    vocabulary = s.source.file().metadata().memory_bytes() + s.vocabulary.bytes();
    if (s.hf) vocabulary += s.hf->vocabulary_bytes();
    if (s.source.file().container() == Container::kHuggingFace && !s.hf)
        vocabulary = std::max(vocabulary, Tokenizer::predict_bytes(s.source.file()));

    const std::uint64_t other = (s.importance ? s.importance->bytes() : 0) + s.folding.bytes();
    plan.at(Tier::kRam, Purpose::kOther) = other;
    plan.at(Tier::kRam, Purpose::kWeights) = s.merge.bytes();
    std::uint64_t scan = 0;
    for (const TensorChoice& c : s.choices) scan = std::max<std::uint64_t>(scan, scan_bytes(c));
    s.slice = s.most_slice();
    const std::uint64_t hash = Buffer::charged_bytes(kHashBufferBytes);
    if (ram_limit_bytes) {
        const std::uint64_t used = baseline_bytes + vocabulary + other + s.merge.bytes() + scan +
                                   (s.options.resume ? hash : 0);
        const std::uint64_t left = *ram_limit_bytes > used ? *ram_limit_bytes - used : 0;
        const std::uint64_t share = left / workers / 64 * 64;
        s.slice = std::clamp<std::size_t>(share, s.least_slice(), s.slice);
    }
    const std::uint64_t rows = Buffer::charged_bytes(s.slice * workers) + scan;
    plan.at(Tier::kRam, Purpose::kIo) = s.options.resume  // reads back beside either
                                            ? std::max(rows, s.header_bytes) + hash
                                            : std::max({rows, hash, s.header_bytes});
    plan.at(Tier::kDisk, Purpose::kWeights) = s.output_bytes;
    plan.output_bytes = s.output_bytes;
    s.add_notes(plan);
    if (threads > 1 && s.slice == s.least_slice()) {
        plan.cheapest_change =
            "--threads 1 saves " + format_bytes(s.slice * (workers - 1)) + " of row buffers";
    }
    return plan;
}

// A run on its way.
struct QuantizeJob::State::Progress {
    TensorWriter& writer;
    RowStream& stream;
    const QuantizeEvents& events;
    std::uint64_t before = 0;  // input of the tensors that are done
    std::uint64_t unsafe = 0;  // output since the last checkpoint
};

// What a fold and an adapter do to the rows at hand; false when go_on() stopped it.
bool QuantizeJob::State::load_changes(const TensorChoice& choice, RowStream& stream,
                                      const std::function<bool()>& go_on) {
    if (choice.fold != nullptr && !folding.prepare(choice, stream, go_on)) return false;
    if (!choice.merged) return true;
    std::function<std::int64_t(std::int64_t)> canonical;
    if (hf) canonical = canonical_rows(*choice.tensor, source.config().head_dim);
    merge.load(*choice.tensor, std::move(canonical));
    return true;
}

// Looks at the weights of tensors whose size depends on them; false when events stopped it.
bool QuantizeJob::State::fit_formats(Team& team, Isa isa, const QuantizeEvents& events) {
    if (std::none_of(choices.begin(), choices.end(), waits_for_weights)) return true;
    RowStream stream({&source, nullptr, &team, slice, isa, options.measures_error(), &merge});
    const auto go_on = [&] { return events.progress(0, input_bytes); };
    for (TensorChoice& choice : choices) {
        if (!waits_for_weights(choice)) continue;
        if (!load_changes(choice, stream, go_on)) return false;
        choice.format = stream.fit(choice, go_on);
        if (!choice.format) return false;
    }
    lay_out();
    return true;
}

// Stores choice `i`, or what an earlier run has left of it; false when events stopped it.
bool QuantizeJob::State::store(std::size_t i, Progress& p) {
    TensorReport& report = reports[i];
    const std::int64_t rows = report.choice->tensor->rows();
    const std::uint64_t row_in = report.bytes_in / static_cast<std::uint64_t>(rows);
    const std::uint64_t row_out = report.bytes_out / static_cast<std::uint64_t>(rows);
    const std::size_t index = first_spec[i];
    const std::size_t next = i + 1 < choices.size() ? first_spec[i + 1] : specs.size();
    const bool single = next == index + 1;
    const TensorWriter::Position start = p.writer.start();
    std::int64_t first = next <= start.tensor ? rows : 0;
    if (single && index == start.tensor) first = static_cast<std::int64_t>(start.offset / row_out);
    resumed_bytes += row_in * static_cast<std::uint64_t>(first);
    RowStream::Sums sums;
    std::int64_t at = first;
    const auto go_on = [&] { return p.events.progress(p.before, input_bytes); };
    if (first < rows && !load_changes(*report.choice, p.stream, go_on)) {
        if (options.resume && first == 0) p.writer.checkpoint({index, 0});
        return stopped(p.before);
    }
    const auto between = [&](std::int64_t done) {
        p.unsafe += row_out * static_cast<std::uint64_t>(done - at);
        at = done;
        const bool on =
            p.events.progress(p.before + row_in * static_cast<std::uint64_t>(done), input_bytes);
        // Planes of several are whole only together.
        const bool sure = single || (done == rows && next < specs.size());
        if (options.resume && sure && (!on || p.unsafe >= checkpoint_bytes)) {
            const std::uint64_t offset = row_out * static_cast<std::uint64_t>(done);
            p.writer.checkpoint(single ? TensorWriter::Position{index, offset}
                                       : TensorWriter::Position{next, 0});
            p.unsafe = 0;
        }
        return on;
    };
    if (!p.stream.convert(*report.choice, index, first, sums, between))
        return stopped(p.before + row_in * static_cast<std::uint64_t>(at));
    p.before += report.bytes_in;
    if (first == rows) return true;  // stored by an earlier run
    if (options.measures_error()) report.error = sums.error;
    if (report.choice->merged && first == 0) report.change = sums.change;
    if (p.events.stored) p.events.stored(report);
    return true;
}

// Checkpoints are for runs that were stopped, and for disks that may yet be repaired or emptied:
// elsewhere the next run would fail in the same way.
bool QuantizeJob::run(Team& team, Isa isa, const QuantizeEvents& events) {
    State& s = *state_;
    if (!s.options.overwrite && !s.hf && std::filesystem::exists(s.output)) {
        throw Error(Exit::kCannotCreate, escaped(s.output, 1024), "the output exists",
                    "give --overwrite to replace it");
    }
    s.folding.begin();
    if (!s.fit_formats(team, isa, events)) return s.stopped(0);
    const std::unique_ptr<TensorWriter> writer = s.open_writer();
    const Charge disk(Tier::kDisk, Purpose::kWeights, writer->file_bytes());
    RowStream stream(
        {&s.source, writer.get(), &team, s.slice, isa, s.options.measures_error(), &s.merge});
    State::Progress progress{*writer, stream, events};
    try {
        for (std::size_t i = 0; i < s.choices.size(); ++i) {
            if (!s.store(i, progress)) return false;
        }
        writer->finish();
    } catch (const Error& e) {
        if (e.exit() != Exit::kAgain && e.exit() != Exit::kIo) writer->abandon();
        throw;
    }
    return true;
}

const std::vector<TensorReport>& QuantizeJob::reports() const noexcept { return state_->reports; }
const std::string& QuantizeJob::output_path() const noexcept { return state_->output; }
std::uint64_t QuantizeJob::input_bytes() const noexcept { return state_->input_bytes; }
std::uint64_t QuantizeJob::output_bytes() const noexcept { return state_->output_bytes; }
std::uint64_t QuantizeJob::resumed_bytes() const noexcept { return state_->resumed_bytes; }

}  // namespace thimble
