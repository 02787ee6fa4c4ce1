// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "compress/lossless.h"
#include "compress/source_bytes.h"
#include "core/error.h"
#include "io/atomic_file.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "io/sha256.h"
#include "model/coded_tensor.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

// A tensor of the source, and what it is called here.
struct Wanted {
    TensorEntry source;
    std::string name;
};

std::int64_t piece_rows(const TensorEntry& tensor) {
    const std::uint64_t row = 2 * tensor.row_elements();
    return static_cast<std::int64_t>(std::max<std::uint64_t>(kPieceBytes / row, 1));
}

}  // namespace

struct DecompressJob::State {
    LosslessOptions options;
    std::unique_ptr<ModelFile> file;
    SourceFacts facts;
    std::vector<Wanted> tensors;  // by their place in the source
    std::size_t piece = kPieceBytes;

    [[nodiscard]] Buffer header() const;
    void parse(const Buffer& header);
    [[nodiscard]] bool is_coded(const Wanted& t) const {
        return file->metadata().find(std::string(kFormatKey) + t.name) != nullptr;
    }
};

Buffer DecompressJob::State::header() const {
    const TensorEntry& entry = file->get(kSourceHeader);
    if (entry.bytes > facts.bytes || entry.bytes > kGgufMaxHeaderBytes) {
        throw Error(Exit::kBadData, escaped(file->path(), 1024),
                    "the source's header is larger than the source");
    }
    Buffer out(static_cast<std::size_t>(entry.bytes), Purpose::kIo);
    file->read(entry, 0, out.span<std::byte>());
    return out;
}

void DecompressJob::State::parse(const Buffer& header) {
    const std::string name = file->path() + ": the source's header";
    Cursor cursor({header.data(), header.bytes()}, name);
    const bool gguf = facts.container == Container::kGguf;
    std::vector<TensorEntry> entries = gguf ? parse_gguf_header(cursor, facts.bytes).tensors
                                            : parse_safetensors_header(cursor, facts.bytes).tensors;
    for (TensorEntry& entry : entries) {
        std::string stored = gguf ? entry.name : "t" + std::to_string(tensors.size());
        tensors.push_back({std::move(entry), std::move(stored)});
    }
    std::stable_sort(tensors.begin(), tensors.end(), [](const Wanted& a, const Wanted& b) {
        return a.source.offset < b.source.offset;
    });
    for (const Wanted& t : tensors) {
        if (is_coded(t))
            piece = std::max(piece, static_cast<std::size_t>(2 * t.source.row_elements()));
        else if (file->get(t.name).bytes != t.source.bytes)
            throw Error(Exit::kBadData, escaped(file->path(), 1024),
                        "tensor '" + escaped(t.name) + "' is of another size than in the source");
    }
}

DecompressJob::DecompressJob(const LosslessOptions& options) : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.options = options;
    refuse_overwriting_inputs(options.output, {&options.model, 1});
    s.file = ModelFile::open(options.model);
    s.facts = source_facts(*s.file);
    s.parse(s.header());
}

DecompressJob::~DecompressJob() = default;

Plan DecompressJob::plan() {
    const State& s = *state_;
    Plan plan;
    plan.at(Tier::kRam, Purpose::kVocabulary) = s.file->metadata().memory_bytes();
    plan.at(Tier::kRam, Purpose::kIo) =
        Buffer::charged_bytes(s.piece) +
        Buffer::charged_bytes(static_cast<std::size_t>(s.file->get(kSourceHeader).bytes));
    plan.at(Tier::kDisk, Purpose::kWeights) = s.facts.bytes;
    plan.output_bytes = s.facts.bytes;
    return plan;
}

bool DecompressJob::run(const LosslessProgress& progress) {
    State& s = *state_;
    AtomicFile out(s.options.output, s.facts.bytes,
                   s.options.overwrite ? IfExists::kReplace : IfExists::kRefuse);
    const Charge disk(Tier::kDisk, Purpose::kWeights, s.facts.bytes);
    Sha256 hash;
    std::uint64_t end = 0;
    const auto put = [&](std::span<const std::byte> bytes) {
        out.write(end, bytes);
        hash.update(bytes);
        end += bytes.size();
        return progress(end, s.facts.bytes);
    };
    const auto pad = [&](std::uint64_t to) {
        const std::vector<std::byte> zeros(4096);
        while (end < to)
            (void)put(std::span(zeros).first(
                static_cast<std::size_t>(std::min<std::uint64_t>(to - end, zeros.size()))));
    };
    {
        const Buffer header = s.header();
        (void)put({header.data(), header.bytes()});
    }
    Buffer buffer(s.piece, Purpose::kIo);
    for (const Wanted& t : s.tensors) {
        pad(t.source.offset);
        std::unique_ptr<CodedTensor> coded;
        std::uint64_t step = s.piece;
        if (s.is_coded(t)) {
            const Shape2 shape{static_cast<std::int64_t>(t.source.rows()),
                               static_cast<std::int64_t>(t.source.row_elements())};
            coded = std::make_unique<CodedTensor>(
                *s.file, t.name, shape,
                escaped(s.file->path(), 1024) + ": tensor '" + escaped(t.name) + "'");
            step = 2 * t.source.row_elements() * static_cast<std::uint64_t>(piece_rows(t.source));
        }
        for (std::uint64_t at = 0; at < t.source.bytes; at += step) {
            const auto n =
                static_cast<std::size_t>(std::min<std::uint64_t>(step, t.source.bytes - at));
            const std::span<std::byte> piece(buffer.data(), n);
            if (coded) {
                const auto row = static_cast<std::int64_t>(2 * t.source.row_elements());
                coded->read(*s.file, 0,
                            {static_cast<std::int64_t>(at) / row, std::ssize(piece) / row}, piece);
            } else {
                s.file->read(s.file->get(t.name), at, piece);
            }
            if (!put(piece)) return false;
        }
    }
    pad(s.facts.bytes);
    if (const std::string is = hash.finish(); is != s.facts.sha256) {
        throw Error(Exit::kBadData, escaped(s.file->path(), 1024),
                    "what it holds is not its source: SHA-256 " + is + ", expected " +
                        escaped(s.facts.sha256));
    }
    out.commit();
    return true;
}

std::uint64_t DecompressJob::output_bytes() const noexcept { return state_->facts.bytes; }
const std::string& DecompressJob::sha256() const noexcept { return state_->facts.sha256; }

}  // namespace thimble
