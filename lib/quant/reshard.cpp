// SPDX-License-Identifier: Apache-2.0
#include "quant/reshard.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/strings.h"
#include "io/gguf_split.h"
#include "io/hf_directory.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBufferBytes = std::size_t{4} << 20;
constexpr std::size_t kLeastBufferBytes = std::size_t{64} << 10;
constexpr std::string_view kSplitTensorsFlag = "--split-max-tensors";

std::string without_suffix(const std::string& path, std::string_view suffix) {
    return path.ends_with(suffix) ? path.substr(0, path.size() - suffix.size()) : path;
}

OptionInfo model_option(const char* help) {
    return {.name = "model",
            .letter = 'm',
            .help = help,
            .value = "PATH",
            .required = true,
            .is_input = true,
            .positional = true};
}

OptionInfo overwrite_option() {
    return {.name = "overwrite", .help = "replace an existing output", .changes_output = false};
}

}  // namespace

void SplitOptions::visit(OptionVisitor& v) {
    v.option(model_option("GGUF file (of a split model the first), or Hugging Face directory"),
             model);
    v.option({.name = "output",
              .letter = 'o',
              .help = "GGUF: what the files' names begin with, PATH-00001-of-00003.gguf; "
                      "Hugging Face: the directory to write",
              .value = "PATH",
              .changes_output = false,
              .required = true,
              .is_output = true},
             output);
    v.option({.name = "split-max-size",
              .help = "tensor data in one file at most: 2G or 2GB is 2*10^9 bytes; a larger tensor "
                      "has a file of its own",
              .value = "SIZE",
              .also = "shard-size"},
             split_max_size);
    v.option({.name = "split-max-tensors",
              .help = "tensors in one file at most (GGUF); 0: no limit",
              .value = "N",
              .least = 0,
              .most = 1e9},
             split_max_tensors);
    v.option(
        {.name = "no-tensor-first-split", .help = "only the metadata in the first file (GGUF)"},
        no_tensor_first_split);
    v.option(overwrite_option(), overwrite);
}

void MergeOptions::visit(OptionVisitor& v) {
    v.option(model_option("first file of a split GGUF model, or Hugging Face directory"), model);
    v.option({.name = "output",
              .letter = 'o',
              .help = "file to write; of a Hugging Face model a directory, or a .safetensors file",
              .value = "PATH",
              .changes_output = false,
              .required = true,
              .is_output = true},
             output);
    v.option(overwrite_option(), overwrite);
}

std::uint64_t parse_shard_size(const std::string& text, const std::string& where) {
    const bool bare = text.ends_with('M') || text.ends_with('G');
    const std::uint64_t bytes = parse_bytes(bare ? text + "B" : text, where);
    if (bytes == 0) throw Error(Exit::kUsage, where, "must be more than 0");
    return bytes;
}

struct ReshardJob::State {
    std::string output;
    IfExists if_exists;
    std::unique_ptr<ModelFile> file;
    std::vector<TensorSpec> specs;
    std::vector<std::string> files;  // that appear
    std::uint64_t output_bytes = 0, header_bytes = 0;
    std::size_t buffer = kBufferBytes;
    std::function<std::unique_ptr<TensorWriter>()> open_writer;

    State(const std::string& model, std::string out, bool overwrite)
        : output(std::move(out)),
          if_exists(overwrite ? IfExists::kReplace : IfExists::kRefuse),
          file(ModelFile::open(model)) {
        for (const TensorEntry& tensor : file->tensors())
            specs.push_back({tensor.name, tensor.type, tensor.dims});
    }
    [[nodiscard]] bool is_gguf() const { return file->container() == Container::kGguf; }
    void prepare_gguf();
    void prepare_split_gguf(const GgufSplit& split);
    void prepare_safetensors(std::uint64_t max_shard_bytes);
    void check_outputs() const;
};

void ReshardJob::State::prepare_gguf() {
    const GgufWriter::Prediction size = GgufWriter::predict(file->metadata(), specs);
    output_bytes = size.file_bytes;
    header_bytes = size.header_bytes;
    files = {output};
    open_writer = [this] {
        return std::make_unique<GgufWriter>(output, file->metadata(), specs, if_exists);
    };
}

void ReshardJob::State::prepare_split_gguf(const GgufSplit& split) {
    const std::string prefix = without_suffix(output, ".gguf");
    const GgufParts parts(prefix, file->metadata(), specs, split);
    output_bytes = parts.file_bytes();
    header_bytes = parts.header_bytes();
    files = parts.paths();
    output = files.front();
    open_writer = [this, parts] { return std::make_unique<GgufSplitWriter>(parts, if_exists); };
}

void ReshardJob::State::prepare_safetensors(std::uint64_t max_shard_bytes) {
    SafetensorsOptions options;
    options.max_shard_bytes = max_shard_bytes;
    options.if_exists = if_exists;
    const SafetensorsWriter::Prediction size = SafetensorsWriter::predict(output, specs, options);
    output_bytes = size.file_bytes;
    header_bytes = size.header_bytes;
    files = {output};
    if (output.ends_with(".safetensors")) {
        open_writer = [this, options] {
            return std::make_unique<SafetensorsWriter>(output, specs, options);
        };
        return;
    }
    std::vector<SideFile> sides;
    if (fs::is_directory(file->path())) sides = side_files_of(file->path());
    output_bytes += total_bytes(sides);
    header_bytes = std::max<std::uint64_t>(header_bytes, kSideBufferBytes);
    open_writer = [this, options, sides] {
        return std::make_unique<HfDirectoryWriter>(output, specs, sides, options);
    };
}

void ReshardJob::State::check_outputs() const {
    std::vector<std::string> inputs = file->files();
    inputs.push_back(file->path());
    for (const std::string& path : files) refuse_overwriting_inputs(path, inputs);
}

ReshardJob::ReshardJob(const SplitOptions& options)
    : state_(std::make_unique<State>(options.model, options.output, options.overwrite)) {
    State& s = *state_;
    const std::uint64_t max_bytes =
        options.split_max_size.empty()
            ? 0
            : parse_shard_size(options.split_max_size, "--split-max-size");
    const auto max_tensors = static_cast<std::uint64_t>(options.split_max_tensors);
    if (max_bytes == 0 && max_tensors == 0) {
        throw Error(Exit::kUsage, "split", "no size is given",
                    "give --split-max-size SIZE or --split-max-tensors N");
    }
    if (s.is_gguf()) {
        s.prepare_split_gguf({max_bytes, max_tensors, options.no_tensor_first_split});
    } else if (max_tensors > 0 || options.no_tensor_first_split) {
        throw Error(Exit::kUsage,
                    max_tensors > 0 ? std::string(kSplitTensorsFlag) : "--no-tensor-first-split",
                    "is for GGUF only", "give --shard-size SIZE");
    } else {
        s.prepare_safetensors(max_bytes);
    }
    s.check_outputs();
}

ReshardJob::ReshardJob(const MergeOptions& options)
    : state_(std::make_unique<State>(options.model, options.output, options.overwrite)) {
    State& s = *state_;
    if (s.file->files().size() == 1) {
        throw Error(Exit::kUsage, escaped(options.model, 1024), "is one file already");
    }
    if (s.is_gguf()) {
        s.prepare_gguf();
    } else {
        s.prepare_safetensors(UINT64_MAX);
    }
    s.check_outputs();
}

ReshardJob::~ReshardJob() = default;

Plan ReshardJob::plan(std::uint64_t baseline_bytes, std::optional<std::uint64_t> ram_limit_bytes) {
    State& s = *state_;
    Plan plan;
    std::uint64_t& metadata = plan.at(Tier::kRam, Purpose::kVocabulary);
    metadata = s.file->metadata().memory_bytes();
    std::uint64_t largest = kLeastBufferBytes;
    for (const TensorEntry& tensor : s.file->tensors()) largest = std::max(largest, tensor.bytes);
    s.buffer = static_cast<std::size_t>(std::min<std::uint64_t>(largest, kBufferBytes));
    if (ram_limit_bytes) {
        const std::uint64_t used = baseline_bytes + metadata;
        const std::uint64_t left = *ram_limit_bytes > used ? *ram_limit_bytes - used : 0;
        s.buffer = std::clamp<std::size_t>(left / 4096 * 4096, kLeastBufferBytes, s.buffer);
    }
    plan.at(Tier::kRam, Purpose::kIo) =
        std::max<std::uint64_t>(Buffer::charged_bytes(s.buffer), s.header_bytes);
    plan.at(Tier::kDisk, Purpose::kWeights) = s.output_bytes;
    plan.output_bytes = s.output_bytes;
    plan.notes.push_back(std::to_string(s.specs.size()) + " tensors from " +
                         std::to_string(s.file->files().size()) + " files");
    for (const std::string& path : s.files) plan.notes.push_back("-> " + escaped(path, 1024));
    return plan;
}

bool ReshardJob::run(const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
    State& s = *state_;
    const std::unique_ptr<TensorWriter> writer = s.open_writer();
    const Charge disk(Tier::kDisk, Purpose::kWeights, writer->file_bytes());
    Buffer buffer(s.buffer, Purpose::kIo);
    std::uint64_t total = 0, done = 0;
    for (const TensorEntry& tensor : s.file->tensors()) total += tensor.bytes;
    for (std::size_t i = 0; i < s.specs.size(); ++i) {
        const TensorEntry& tensor = s.file->tensors()[i];
        for (std::uint64_t at = 0; at < tensor.bytes;) {
            const auto n =
                static_cast<std::size_t>(std::min<std::uint64_t>(s.buffer, tensor.bytes - at));
            const std::span<std::byte> piece(buffer.data(), n);
            s.file->read(tensor, at, piece);
            writer->write(i, at, piece);
            at += n;
            done += n;
            if (!progress(done, total)) return false;
        }
    }
    writer->finish();
    return true;
}

const std::string& ReshardJob::output_path() const noexcept { return state_->output; }
const std::vector<std::string>& ReshardJob::output_files() const noexcept { return state_->files; }
std::uint64_t ReshardJob::output_bytes() const noexcept { return state_->output_bytes; }

}  // namespace thimble
