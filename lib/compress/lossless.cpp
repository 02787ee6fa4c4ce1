// SPDX-License-Identifier: Apache-2.0
#include "compress/lossless.h"

#include <algorithm>
#include <cstring>

#include "codec/exponent_coder.h"
#include "compress/source_bytes.h"
#include "core/error.h"
#include "io/gguf_writer.h"
#include "io/sha256.h"
#include "model/coded_tensor.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

using Code = ExponentCode;
constexpr std::int64_t kBatch = 64;  // chunks at work at once
constexpr std::size_t kBatchBytes = std::size_t{2} * kBatch * Code::kChunk;
constexpr std::size_t kSlack = 1024;           // words behind a chunk that its decoder may read
constexpr std::uint64_t kLeastNumbers = 4096;  // of a tensor that is worth a code
constexpr std::size_t kMostName = 56;          // bytes, so that a plane's name is not too long

std::uint64_t numbers_of(const TensorEntry& tensor) {
    return tensor.rows() * tensor.row_elements();
}

std::span<const std::uint16_t> numbers_in(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const std::uint16_t*>(bytes.data()), bytes.size() / 2};
}

bool worth_coding(const TensorEntry& tensor, const std::string& name) {
    return tensor.type == TensorType::kBF16 && tensor.dims.size() > 1 && tensor.dims.size() <= 4 &&
           numbers_of(tensor) >= kLeastNumbers && name.size() <= kMostName;
}

std::string format_text(const TensorEntry& tensor) {
    Json json = Json::object();
    json.set("format", kCodedFormat);
    json.set("version", 1);
    json.set("shape", JsonArray{static_cast<std::int64_t>(tensor.rows()),
                                static_cast<std::int64_t>(tensor.row_elements())});
    json.set("linear", Json::object());
    return json.dump();
}

// The chunks of one tensor, a batch at a time, coded on all threads.
class Batches {
  public:
    explicit Batches(Team& team) : team_(team), memory_(kBatchBytes, Purpose::kIo) {}

    // fn(offset, bytes) for each batch; false when it says so.
    template <class Fn>
    bool read(const ModelFile& file, const TensorEntry& tensor, Fn&& fn) {
        for (std::uint64_t at = 0; at < tensor.bytes; at += kBatchBytes) {
            const auto n =
                static_cast<std::size_t>(std::min<std::uint64_t>(kBatchBytes, tensor.bytes - at));
            const std::span<std::byte> bytes(memory_.data(), n);
            file.read(tensor, at, bytes);
            if (!fn(at, std::span<const std::byte>(bytes))) return false;
        }
        return true;
    }
    // The words of a batch's chunks; `also(numbers, words)` is called for each, on any thread.
    template <class Fn>
    std::span<const std::vector<std::uint16_t>> encode(std::span<const std::uint16_t> numbers,
                                                       const ExponentCoder& coder, Fn&& also) {
        const std::int64_t chunks = chunks_of(std::ssize(numbers));
        words_.resize(std::max(words_.size(), static_cast<std::size_t>(chunks)));
        team_.run(chunks, 1, [&](std::int64_t begin, std::int64_t) {
            const auto first = static_cast<std::size_t>(begin) * Code::kChunk;
            const auto part =
                numbers.subspan(first, std::min<std::size_t>(Code::kChunk, numbers.size() - first));
            coder.encode(part, words_[static_cast<std::size_t>(begin)]);
            also(begin, part, words_[static_cast<std::size_t>(begin)]);
        });
        return std::span(words_).first(static_cast<std::size_t>(chunks));
    }

  private:
    Team& team_;
    Buffer memory_;
    std::vector<std::vector<std::uint16_t>> words_;
};

// How a tensor is to be stored.
struct Stored {
    const TensorEntry* source = nullptr;
    std::string name;
    std::vector<std::size_t> written;  // its tensors in the output: one, or a coded one's planes
    ExponentCode code;
    std::vector<std::uint32_t> starts;
    LosslessReport report;
};

}  // namespace

void LosslessOptions::visit(OptionVisitor& v) {
    v.option({.name = "model",
              .letter = 'm',
              .help = "GGUF or .safetensors file",
              .value = "FILE",
              .required = true,
              .is_input = true,
              .positional = true},
             model);
    v.option({.name = "output",
              .letter = 'o',
              .help = "file to write",
              .value = "FILE",
              .changes_output = false,
              .required = true,
              .is_output = true},
             output);
    v.option({.name = "overwrite", .help = "replace an existing output", .changes_output = false},
             overwrite);
}

struct CompressJob::State {
    LosslessOptions options;
    std::unique_ptr<ModelFile> file;
    std::unique_ptr<SourceBytes> source;
    std::vector<Stored> tensors;
    std::vector<LosslessReport> reports;
    std::string sha256;
    std::uint64_t total = 0, done = 0, output_bytes = 0;  // of the progress: bytes read
    const LosslessProgress* progress = nullptr;

    bool advance(std::uint64_t bytes) {
        done += bytes;
        return (*progress)(done, total);
    }
    bool choose_code(Stored& t, Batches& batches);
    [[nodiscard]] Metadata metadata() const;
    [[nodiscard]] std::vector<TensorSpec> specs();
    bool write(Stored& t, Batches& batches, GgufWriter& writer, Isa isa);
};

CompressJob::CompressJob(const LosslessOptions& options) : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.options = options;
    refuse_overwriting_inputs(options.output, {&options.model, 1});
    s.file = ModelFile::open(options.model);
    if (s.file->files().size() != 1) {
        throw Error(Exit::kUsage, escaped(options.model, 1024), "is a model of several files",
                    "compress takes one: join them by quantize merge");
    }
    if (s.file->metadata().find_string(kLosslessKey))
        throw Error(Exit::kUsage, escaped(options.model, 1024), "is compressed already");
    s.source = std::make_unique<SourceBytes>(s.file->files()[0], s.file->tensors());
    const bool named = s.file->container() == Container::kGguf;
    for (const TensorEntry& tensor : s.file->tensors()) {
        Stored t;
        t.source = &tensor;
        t.name = named ? tensor.name : "t" + std::to_string(s.tensors.size());
        t.report = {t.name, numbers_of(tensor), tensor.bytes, tensor.bytes, false, 0};
        t.report.coded = worth_coding(tensor, t.name);
        s.total += tensor.bytes * (t.report.coded ? 3 : 1);
        s.tensors.push_back(std::move(t));
    }
}

CompressJob::~CompressJob() = default;

Plan CompressJob::plan() {
    State& s = *state_;
    Plan plan;
    plan.at(Tier::kRam, Purpose::kVocabulary) = s.file->metadata().memory_bytes();
    std::uint64_t starts = 0;
    for (const Stored& t : s.tensors)
        if (t.report.coded) starts += 4 * (t.report.numbers / Code::kChunk + 2);
    // A batch, its words at most and the header.
    plan.at(Tier::kRam, Purpose::kIo) =
        Buffer::charged_bytes(kBatchBytes) + kBatchBytes / 2 + s.source->header_bytes() + starts;
    plan.at(Tier::kDisk, Purpose::kWeights) = s.file->file_bytes();
    plan.output_bytes = s.file->file_bytes();
    plan.notes.push_back(
        "at most as large as the source; how much smaller shows when its exponents "
        "are counted");
    return plan;
}

// Counts exponents, and words of the best code for them.
bool CompressJob::State::choose_code(Stored& t, Batches& batches) {
    ExponentCounts counts{};
    const bool counted = batches.read(*file, *t.source, [&](std::uint64_t, auto bytes) {
        count_exponents(numbers_in(bytes), counts);
        return advance(bytes.size());
    });
    if (!counted) return false;
    t.report.entropy_bits = 8 + thimble::entropy_bits(counts);
    t.code = best_code(counts);
    const ExponentCoder coder(t.code);
    t.starts = {0};
    std::uint64_t words = 0;
    const bool sized = batches.read(*file, *t.source, [&](std::uint64_t, auto bytes) {
        for (const auto& chunk : batches.encode(numbers_in(bytes), coder, [](auto&&...) {})) {
            words += chunk.size();
            t.starts.push_back(static_cast<std::uint32_t>(words));
        }
        return advance(bytes.size());
    });
    const std::uint64_t stored = t.report.numbers + 2 * words + 4 * t.starts.size() + 32;
    t.report.coded = stored < t.report.bytes && words <= INT32_MAX;
    if (t.report.coded) t.report.stored = stored;
    return sized;
}

Metadata CompressJob::State::metadata() const {
    Metadata out;
    if (file->container() == Container::kGguf) {
        for (const auto& [key, value] : file->metadata().entries()) out.set(key, value);
    } else {
        out.set("general.architecture", std::string("archive"));
    }
    out.set(std::string(kLosslessKey), source->describe(file->container(), sha256));
    for (const Stored& t : tensors) {
        if (t.report.coded) out.set(std::string(kFormatKey) + t.name, format_text(*t.source));
    }
    return out;
}

std::vector<TensorSpec> CompressJob::State::specs() {
    std::vector<TensorSpec> out = {
        {std::string(kSourceHeader), TensorType::kI8, {source->header_bytes()}}};
    const bool named = file->container() == Container::kGguf;
    for (Stored& t : tensors) {
        std::vector<TensorSpec> planes = {{t.name, t.source->type, t.source->dims}};
        if (!named) planes = {{t.name, TensorType::kI8, {t.source->bytes}}};
        if (t.report.coded) planes = coded_specs(t.name, t.source->dims, t.starts.back());
        for (TensorSpec& plane : planes) {
            t.written.push_back(out.size());
            out.push_back(std::move(plane));
        }
    }
    return out;
}

bool CompressJob::State::write(Stored& t, Batches& batches, GgufWriter& writer, Isa isa) {
    if (!t.report.coded) {
        return batches.read(*file, *t.source, [&](std::uint64_t at, auto bytes) {
            writer.write(t.written[0], at, bytes);
            return advance(bytes.size());
        });
    }
    const auto put = [&](CodedPlane plane, std::uint64_t at, std::span<const std::byte> bytes) {
        writer.write(t.written[plane], at, bytes);
    };
    put(kCodedStarts, 0, std::as_bytes(std::span(t.starts)));
    put(kCodedCode, 0, std::as_bytes(std::span(t.code.exponents)));
    put(kCodedCode, sizeof t.code.exponents, std::as_bytes(std::span(t.code.lengths)));
    const ExponentCoder coder(t.code);
    const ops::ExponentDecoder decoder(t.code, isa);
    std::vector<std::uint8_t> rest;
    std::uint64_t words = 0;
    return batches.read(*file, *t.source, [&](std::uint64_t at, auto bytes) {
        const std::span<const std::uint16_t> numbers = numbers_in(bytes);
        rest.resize(numbers.size());
        const auto chunks = batches.encode(
            numbers, coder,
            [&](std::int64_t chunk, std::span<const std::uint16_t> part,
                std::vector<std::uint16_t>& of) {
                const auto mine = std::span(rest).subspan(
                    static_cast<std::size_t>(chunk) * Code::kChunk, part.size());
                std::transform(part.begin(), part.end(), mine.begin(), rest_of_bf16);
                std::vector<std::uint16_t> again(part.size());
                const std::size_t n = of.size();
                of.resize(n + kSlack);
                const bool same =
                    decoder.decode(std::span(of).first(n), of.data() + of.size(), mine, again) &&
                    std::equal(part.begin(), part.end(), again.begin());
                of.resize(n);
                if (!same) throw Error(Exit::kFailure, t.name, "does not decode to what was coded");
            });
        put(kCodedRest, at / 2, std::as_bytes(std::span(rest)));
        for (const auto& chunk : chunks) {
            put(kCodedWords, 2 * words, std::as_bytes(std::span(chunk)));
            words += chunk.size();
        }
        return advance(bytes.size());
    });
}

bool CompressJob::run(Team& team, Isa isa, const LosslessProgress& progress) {
    State& s = *state_;
    s.progress = &progress;
    s.sha256 = sha256_of_file(s.file->files()[0]);
    Batches batches(team);
    for (Stored& t : s.tensors)
        if (t.report.coded && !s.choose_code(t, batches)) return false;
    GgufWriter writer(s.options.output, s.metadata(), s.specs(),
                      s.options.overwrite ? IfExists::kReplace : IfExists::kRefuse);
    s.output_bytes = writer.file_bytes();
    const Charge disk(Tier::kDisk, Purpose::kWeights, s.output_bytes);
    {
        const Buffer header = s.source->header();
        writer.write(0, 0, {header.data(), header.bytes()});
    }
    for (Stored& t : s.tensors)
        if (!s.write(t, batches, writer, isa)) return false;
    writer.finish();
    for (Stored& t : s.tensors) s.reports.push_back(std::move(t.report));
    return true;
}

const std::vector<LosslessReport>& CompressJob::reports() const noexcept { return state_->reports; }
const std::string& CompressJob::source_sha256() const noexcept { return state_->sha256; }
std::uint64_t CompressJob::input_bytes() const noexcept { return state_->file->file_bytes(); }
std::uint64_t CompressJob::output_bytes() const noexcept { return state_->output_bytes; }

}  // namespace thimble
