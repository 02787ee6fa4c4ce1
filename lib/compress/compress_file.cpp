// SPDX-License-Identifier: Apache-2.0
#include "compress/lossless.h"
#include "compress/source_bytes.h"
#include "compress/tensor_coder.h"
#include "core/error.h"
#include "io/gguf_writer.h"
#include "io/sha256.h"

namespace thimble {
namespace {

constexpr std::size_t kMostName = 56;  // bytes, so that a plane's name is not too long

// How a tensor is to be stored.
struct Stored {
    const TensorEntry* source = nullptr;
    std::string name;
    std::vector<std::size_t> written;  // its tensors in the output: one, or a coded one's planes
    CodedChoice choice;
    LosslessReport report;
};

class CompressFile final : public LosslessJob {
  public:
    explicit CompressFile(const LosslessOptions& options) : options_(options) {
        refuse_overwriting_inputs(options.output, {&options.model, 1});
        file_ = ModelFile::open(options.model);
        if (file_->files().size() != 1) {
            throw Error(Exit::kUsage, escaped(options.model, 1024), "is a model of several files",
                        "join them by quantize merge");
        }
        if (file_->metadata().find_string(kLosslessKey))
            throw Error(Exit::kUsage, escaped(options.model, 1024), "is compressed already");
        source_ = std::make_unique<SourceBytes>(file_->files()[0], file_->tensors());
        for (const TensorEntry& tensor : file_->tensors()) {
            Stored t;
            t.source = &tensor;
            t.name = named() ? tensor.name : "t" + std::to_string(tensors_.size());
            t.report = {t.name,       tensor.rows() * tensor.row_elements(),
                        tensor.bytes, tensor.bytes,
                        coded(t),     0};
            total_ += tensor.bytes * (t.report.coded ? 3 : 1);
            tensors_.push_back(std::move(t));
        }
    }

    Plan plan() override {
        Plan plan;
        plan.at(Tier::kRam, Purpose::kVocabulary) = file_->metadata().memory_bytes();
        std::uint64_t memory = Buffer::charged_bytes(most_batch());
        for (const Stored& t : tensors_)
            memory = std::max(memory, TensorCoder::memory_bytes(*t.source));
        plan.at(Tier::kRam, Purpose::kIo) = memory + source_->header_bytes();
        plan.at(Tier::kDisk, Purpose::kWeights) = file_->file_bytes();
        plan.output_bytes = file_->file_bytes();
        plan.notes.push_back(
            "at most as large as the source; how much smaller shows when its exponents "
            "are counted");
        return plan;
    }

    bool run(Team& team, Isa isa, const LosslessProgress& progress) override {
        const TensorCoder::Advance advance = [&](std::uint64_t bytes) {
            return progress(done_ += bytes, total_);
        };
        sha256_ = sha256_of_file(file_->files()[0]);
        TensorCoder coder(team, isa, most_batch());
        for (Stored& t : tensors_) {
            if (!t.report.coded) continue;
            if (!coder.choose(*file_, *t.source, advance, t.choice)) return false;
            t.report.coded = t.choice.coded;
            t.report.entropy_bits = t.choice.entropy_bits;
            if (t.report.coded) t.report.stored = t.choice.stored;
        }
        GgufWriter writer(options_.output, metadata(), specs(),
                          options_.overwrite ? IfExists::kReplace : IfExists::kRefuse);
        output_bytes_ = writer.file_bytes();
        const Charge disk(Tier::kDisk, Purpose::kWeights, output_bytes_);
        {
            const Buffer header = source_->header();
            writer.write(0, 0, {header.data(), header.bytes()});
        }
        for (const Stored& t : tensors_)
            if (!(t.report.coded ? write_coded(t, coder, writer, advance)
                                 : write_as_it_is(t, writer, advance)))
                return false;
        writer.finish();
        for (Stored& t : tensors_) reports_.push_back(std::move(t.report));
        return true;
    }

    std::uint64_t input_bytes() const noexcept override { return file_->file_bytes(); }
    std::uint64_t output_bytes() const noexcept override { return output_bytes_; }
    std::string sha256() const override { return sha256_; }

  private:
    [[nodiscard]] bool named() const noexcept { return file_->container() == Container::kGguf; }
    [[nodiscard]] static bool coded(const Stored& t) {
        return TensorCoder::takes(*t.source) && t.name.size() <= kMostName;
    }
    [[nodiscard]] std::size_t most_batch() const {
        std::size_t most = std::size_t{4} << 20;
        for (const Stored& t : tensors_)
            if (t.report.coded) most = std::max(most, TensorCoder::batch_bytes(*t.source));
        return most;
    }

    [[nodiscard]] Metadata metadata() const {
        Metadata out;
        if (named()) {
            for (const auto& [key, value] : file_->metadata().entries()) out.set(key, value);
        } else {
            out.set("general.architecture", std::string("archive"));
        }
        out.set(std::string(kLosslessKey), source_->describe(file_->container(), sha256_));
        for (const Stored& t : tensors_) {
            if (!t.report.coded) continue;
            const Shape2 shape{static_cast<std::int64_t>(t.source->rows()),
                               static_cast<std::int64_t>(t.source->row_elements())};
            out.set(std::string(kFormatKey) + t.name,
                    describe_coded(shape, float_kind(t.source->type).value()));
        }
        return out;
    }

    [[nodiscard]] std::vector<TensorSpec> specs() {
        std::vector<TensorSpec> out = {
            {std::string(kSourceHeader), TensorType::kI8, {source_->header_bytes()}}};
        for (Stored& t : tensors_) {
            std::vector<TensorSpec> planes = {{t.name, t.source->type, t.source->dims}};
            if (!named()) planes = {{t.name, TensorType::kI8, {t.source->bytes}}};
            if (t.report.coded) {
                const FloatKind kind = float_kind(t.source->type).value();
                planes = coded_specs(t.name, t.source->dims, t.choice.starts.back(),
                                     t.choice.low ? low_bytes(kind, t.report.numbers) : 0);
            }
            for (TensorSpec& plane : planes) {
                t.written.push_back(out.size());
                out.push_back(std::move(plane));
            }
        }
        return out;
    }

    [[nodiscard]] bool write_coded(const Stored& t, TensorCoder& coder, GgufWriter& writer,
                                   const TensorCoder::Advance& advance) const {
        return coder.write(
            *file_, *t.source, t.choice,
            [&](CodedPlane plane, std::uint64_t at, std::span<const std::byte> bytes) {
                writer.write(t.written[plane], at, bytes);
            },
            advance);
    }
    [[nodiscard]] bool write_as_it_is(const Stored& t, GgufWriter& writer,
                                      const TensorCoder::Advance& advance) const {
        Buffer buffer(std::size_t{1} << 20, Purpose::kIo);
        for (std::uint64_t at = 0; at < t.source->bytes;) {
            const auto n = static_cast<std::size_t>(
                std::min<std::uint64_t>(buffer.bytes(), t.source->bytes - at));
            const std::span<std::byte> bytes(buffer.data(), n);
            file_->read(*t.source, at, bytes);
            writer.write(t.written[0], at, bytes);
            at += n;
            if (!advance(n)) return false;
        }
        return true;
    }

    LosslessOptions options_;
    std::unique_ptr<ModelFile> file_;
    std::unique_ptr<SourceBytes> source_;
    std::vector<Stored> tensors_;
    std::string sha256_;
    std::uint64_t total_ = 0, done_ = 0, output_bytes_ = 0;  // of the progress: bytes read
};

}  // namespace

std::unique_ptr<LosslessJob> compress_file(const LosslessOptions& options) {
    return std::make_unique<CompressFile>(options);
}

}  // namespace thimble
