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

// Of a coded tensor.
std::uint64_t row_bytes(const TensorEntry& tensor) { return tensor.bytes / tensor.rows(); }
std::uint64_t piece_bytes(const TensorEntry& tensor) {
    const std::uint64_t row = row_bytes(tensor);
    return std::max<std::uint64_t>(kPieceBytes / row, 1) * row;
}

class DecompressFile final : public LosslessJob {
  public:
    explicit DecompressFile(const LosslessOptions& options) : options_(options) {
        refuse_overwriting_inputs(options.output, {&options.model, 1});
        file_ = ModelFile::open(options.model);
        facts_ = source_facts(*file_);
        parse(header());
    }

    Plan plan() override {
        Plan plan;
        plan.at(Tier::kRam, Purpose::kVocabulary) = file_->metadata().memory_bytes();
        plan.at(Tier::kRam, Purpose::kIo) =
            Buffer::charged_bytes(piece_) +
            Buffer::charged_bytes(static_cast<std::size_t>(file_->get(kSourceHeader).bytes));
        plan.at(Tier::kDisk, Purpose::kWeights) = facts_.bytes;
        plan.output_bytes = facts_.bytes;
        return plan;
    }

    bool run(Team&, Isa, const LosslessProgress& progress) override {
        AtomicFile out(options_.output, facts_.bytes,
                       options_.overwrite ? IfExists::kReplace : IfExists::kRefuse);
        const Charge disk(Tier::kDisk, Purpose::kWeights, facts_.bytes);
        Sha256 hash;
        std::uint64_t end = 0;
        const auto put = [&](std::span<const std::byte> bytes) {
            out.write(end, bytes);
            hash.update(bytes);
            end += bytes.size();
            return progress(end, facts_.bytes);
        };
        const auto pad = [&](std::uint64_t to) {
            const std::vector<std::byte> zeros(4096);
            while (end < to)
                (void)put(std::span(zeros).first(
                    static_cast<std::size_t>(std::min<std::uint64_t>(to - end, zeros.size()))));
        };
        {
            const Buffer bytes = header();
            (void)put({bytes.data(), bytes.bytes()});
        }
        Buffer buffer(piece_, Purpose::kIo);
        for (const Wanted& t : tensors_) {
            pad(t.source.offset);
            const auto coded = open_coded(t);
            const std::uint64_t step = coded ? piece_bytes(t.source) : piece_;
            for (std::uint64_t at = 0; at < t.source.bytes; at += step) {
                const auto n =
                    static_cast<std::size_t>(std::min<std::uint64_t>(step, t.source.bytes - at));
                const std::span<std::byte> piece(buffer.data(), n);
                if (coded) {
                    const auto row = static_cast<std::int64_t>(row_bytes(t.source));
                    coded->read(*file_, 0,
                                {static_cast<std::int64_t>(at) / row, std::ssize(piece) / row},
                                piece);
                } else {
                    file_->read(file_->get(t.name), at, piece);
                }
                if (!put(piece)) return false;
            }
        }
        pad(facts_.bytes);
        if (const std::string is = hash.finish(); is != facts_.sha256) {
            throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                        "what it holds is not its source: SHA-256 " + is + ", expected " +
                            escaped(facts_.sha256));
        }
        out.commit();
        return true;
    }

    std::uint64_t input_bytes() const noexcept override { return file_->file_bytes(); }
    std::uint64_t output_bytes() const noexcept override { return facts_.bytes; }
    std::string sha256() const override { return facts_.sha256; }

  private:
    [[nodiscard]] Buffer header() const {
        const TensorEntry& entry = file_->get(kSourceHeader);
        if (entry.bytes > facts_.bytes || entry.bytes > kGgufMaxHeaderBytes) {
            throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                        "the source's header is larger than the source");
        }
        Buffer out(static_cast<std::size_t>(entry.bytes), Purpose::kIo);
        file_->read(entry, 0, out.span<std::byte>());
        return out;
    }

    void parse(const Buffer& header) {
        const std::string name = file_->path() + ": the source's header";
        Cursor cursor({header.data(), header.bytes()}, name);
        const bool gguf = facts_.container == Container::kGguf;
        std::vector<TensorEntry> entries =
            gguf ? parse_gguf_header(cursor, facts_.bytes).tensors
                 : parse_safetensors_header(cursor, facts_.bytes).tensors;
        for (TensorEntry& entry : entries) {
            std::string stored = gguf ? entry.name : "t" + std::to_string(tensors_.size());
            tensors_.push_back({std::move(entry), std::move(stored)});
        }
        std::stable_sort(tensors_.begin(), tensors_.end(), [](const Wanted& a, const Wanted& b) {
            return a.source.offset < b.source.offset;
        });
        for (const Wanted& t : tensors_) {
            if (key_of(t) == nullptr && file_->get(t.name).bytes != t.source.bytes)
                throw Error(
                    Exit::kBadData, escaped(file_->path(), 1024),
                    "tensor '" + escaped(t.name) + "' is of another size than in the source");
            if (open_coded(t))
                piece_ = std::max(piece_, static_cast<std::size_t>(piece_bytes(t.source)));
        }
    }

    [[nodiscard]] const MetaValue* key_of(const Wanted& t) const {
        return file_->metadata().find(std::string(kFormatKey) + t.name);
    }
    // Null where the tensor is not coded.
    [[nodiscard]] std::unique_ptr<CodedTensor> open_coded(const Wanted& t) const {
        const auto text = file_->metadata().find_string(std::string(kFormatKey) + t.name);
        if (!text) return nullptr;
        const std::string where =
            escaped(file_->path(), 1024) + ": tensor '" + escaped(t.name) + "'";
        const FloatKind kind = coded_kind(parse_json(*text, where), where);
        if (float_kind(t.source.type) != kind)
            throw Error(Exit::kBadData, where, "is of another type than in the source");
        const Shape2 shape{static_cast<std::int64_t>(t.source.rows()),
                           static_cast<std::int64_t>(t.source.row_elements())};
        return std::make_unique<CodedTensor>(*file_, t.name, shape, kind, where);
    }

    LosslessOptions options_;
    std::unique_ptr<ModelFile> file_;
    SourceFacts facts_;
    std::vector<Wanted> tensors_;  // by their place in the source
    std::size_t piece_ = kPieceBytes;
};

}  // namespace

std::unique_ptr<LosslessJob> decompress_file(const LosslessOptions& options) {
    return std::make_unique<DecompressFile>(options);
}

}  // namespace thimble
