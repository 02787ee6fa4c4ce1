// SPDX-License-Identifier: Apache-2.0
// A Hugging Face directory in the layout of DFloat11's authors (reference_layout.h): a layer's
// bfloat16 matrices of known names under one code, embedding and head each under its own.
#include <algorithm>
#include <cctype>
#include <map>

#include "codec/dfloat11.h"
#include "compress/lossless.h"
#include "compress/reference_layout.h"
#include "core/error.h"
#include "io/hf_directory.h"
#include "io/sha256.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
constexpr std::string_view kWeight = ".weight";

// Matrices under one code.
struct Module {
    std::string name, pattern;       // pattern: of all its like
    std::vector<std::string> paths;  // within it; none: it is a matrix itself
    std::vector<const TensorEntry*> tensors;
    std::uint64_t numbers = 0;
    ExponentCounts counts{};
    std::optional<Dfloat11Code> code;  // none: its matrices stay as they are
    std::size_t first = 0;             // of its tensors in the output
};
enum Part : std::uint8_t { kLuts, kCodes, kRest, kPositions, kGaps, kSplits };

// "model.layers.3.mlp.up_proj": "model.layers.3" and "mlp.up_proj".
std::pair<std::string, std::string> split_path(const std::string& path) {
    for (std::size_t begin = 0; begin < path.size();) {
        const std::size_t end = std::min(path.find('.', begin), path.size());
        const bool number =
            std::all_of(path.begin() + static_cast<std::ptrdiff_t>(begin),
                        path.begin() + static_cast<std::ptrdiff_t>(end),
                        [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; });
        if (number && end > begin && end < path.size())
            return {path.substr(0, end), path.substr(end + 1)};
        begin = end + 1;
    }
    return {path, {}};
}

class WriteReference final : public LosslessJob {
  public:
    explicit WriteReference(const LosslessOptions& options) : options_(options) {
        refuse_overwriting_inputs(options.output, {&options.model, 1});
        file_ = ModelFile::open(options.model);
        where_ = escaped(options.model, 1024) + "/config.json";
        if (file_->config().find(kReferenceConfig) != nullptr)
            throw Error(Exit::kUsage, escaped(options.model, 1024), "is compressed already");
        const std::uint64_t hidden = reference_width(file_->config(), where_);
        for (const TensorEntry& tensor : file_->tensors()) {
            total_ += tensor.bytes;
            if (!takes(tensor, hidden)) {
                plain_.push_back(&tensor);
                continue;
            }
            total_ += 2 * tensor.bytes;
            add(tensor);
        }
        if (modules_.empty())
            throw Error(Exit::kUsage, escaped(options.model, 1024),
                        "has no bfloat16 matrix of a name that the reference layout is known for");
    }

    Plan plan() override {
        Plan plan;
        std::uint64_t most = 0;  // numbers under one code, whose codes take no more bytes
        for (const Module& m : modules_) most = std::max(most, m.numbers);
        plan.at(Tier::kRam, Purpose::kIo) = 2 * kPieceBytes + most + most / 8;
        plan.at(Tier::kDisk, Purpose::kWeights) = file_->file_bytes();
        plan.output_bytes = file_->file_bytes();
        return plan;
    }

    bool run(Team&, Isa, const LosslessProgress& progress) override {
        progress_ = &progress;
        for (Module& m : modules_) {
            for (const TensorEntry* tensor : m.tensors) {
                if (!each_piece(*tensor, [&](std::uint64_t, std::span<const std::byte> bytes) {
                        count_exponents(numbers_in(bytes), m.counts);
                    }))
                    return false;
            }
            if (m.numbers <= UINT32_MAX) m.code = Dfloat11Code::best(m.counts);
            if (!m.code) plain_.insert(plain_.end(), m.tensors.begin(), m.tensors.end());
        }
        const Json config = reference_config();
        std::vector<SideFile> sides = side_files_of(options_.model);
        std::erase_if(sides, [](const SideFile& side) { return side.name == "config.json"; });
        sides.push_back(side_file("config.json",
                                  with_reference_config(file_->config(), &config).dump(2) + "\n"));
        SafetensorsOptions writing;
        writing.if_exists = options_.overwrite ? IfExists::kReplace : IfExists::kRefuse;
        HfDirectoryWriter writer(options_.output, specs(), sides, writing);
        output_bytes_ = writer.file_bytes();
        const Charge disk(Tier::kDisk, Purpose::kWeights, output_bytes_);
        for (std::size_t i = 0; i < plain_.size(); ++i) {
            if (!each_piece(*plain_[i], [&](std::uint64_t at, std::span<const std::byte> bytes) {
                    writer.write(i, at, bytes);
                }))
                return false;
            reports_.push_back({plain_[i]->name, plain_[i]->rows() * plain_[i]->row_elements(),
                                plain_[i]->bytes, plain_[i]->bytes, false, 0});
        }
        for (const Module& m : modules_)
            if (m.code && !write(m, writer)) return false;
        writer.finish();
        return true;
    }

    std::uint64_t input_bytes() const noexcept override { return file_->file_bytes(); }
    std::uint64_t output_bytes() const noexcept override { return output_bytes_; }

  private:
    static std::span<const std::uint16_t> numbers_in(std::span<const std::byte> bytes) {
        return {reinterpret_cast<const std::uint16_t*>(bytes.data()), bytes.size() / 2};
    }
    [[nodiscard]] static bool takes(const TensorEntry& tensor, std::uint64_t hidden) {
        if (tensor.type != TensorType::kBF16 || !tensor.name.ends_with(kWeight)) return false;
        const std::string_view path =
            std::string_view(tensor.name).substr(0, tensor.name.size() - kWeight.size());
        const auto dims = reference_dims(path, tensor.rows() * tensor.row_elements(), hidden);
        return dims && *dims == tensor.dims;
    }
    void add(const TensorEntry& tensor) {
        const auto [name, path] =
            split_path(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
        auto at = std::find_if(modules_.begin(), modules_.end(),
                               [&, &module = name](const Module& m) { return m.name == module; });
        if (at == modules_.end()) {
            Module m;
            m.name = name;
            m.pattern = literal_pattern(name);
            if (!path.empty()) m.pattern = m.pattern.substr(0, m.pattern.rfind('.') + 1) + "\\d+";
            at = modules_.insert(modules_.end(), std::move(m));
        }
        if (!path.empty()) at->paths.push_back(path);
        at->tensors.push_back(&tensor);
        at->numbers += tensor.rows() * tensor.row_elements();
    }

    template <class Fn>
    bool each_piece(const TensorEntry& tensor, Fn&& fn) {
        Buffer buffer(kPieceBytes, Purpose::kIo);
        for (std::uint64_t at = 0; at < tensor.bytes;) {
            const auto n =
                static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, tensor.bytes - at));
            const std::span<std::byte> bytes(buffer.data(), n);
            file_->read(tensor, at, bytes);
            fn(at, std::span<const std::byte>(bytes));
            at += n;
            if (!(*progress_)(done_ += n, total_)) return false;
        }
        return true;
    }

    // One pattern for all layers where they hold the same matrices, else one for each.
    [[nodiscard]] Json reference_config() const {
        std::map<std::string, const Module*> first;
        std::map<std::string, bool> alike;
        for (const Module& m : modules_) {
            const auto [at, is_new] = first.try_emplace(m.pattern, &m);
            bool& same = alike.try_emplace(m.pattern, true).first->second;
            same = same && m.paths == at->second->paths;
        }
        Json patterns = Json::object();
        for (const Module& m : modules_) {
            JsonArray paths(m.paths.begin(), m.paths.end());
            if (m.code)
                patterns.set(alike.at(m.pattern) ? m.pattern : literal_pattern(m.name),
                             std::move(paths));
        }
        Json config = Json::object();
        config.set("version", kReferenceVersion);
        config.set("threads_per_block", JsonArray{std::int64_t{Dfloat11::kThreads}});
        config.set("bytes_per_thread", std::int64_t{Dfloat11::kThreadBytes});
        config.set("pattern_dict", std::move(patterns));
        return config;
    }

    [[nodiscard]] std::vector<TensorSpec> specs() {
        std::vector<TensorSpec> out;
        for (const TensorEntry* t : plain_) out.push_back({t->name, t->type, t->dims});
        for (Module& m : modules_) {
            if (!m.code) continue;
            m.first = out.size();
            const std::uint64_t bytes = m.code->bytes(m.counts);
            const auto part = [&](const char* name, TensorType type,
                                  std::vector<std::uint64_t> dims) {
                out.push_back({m.name + name, type, std::move(dims)});
            };
            part(".luts", TensorType::kU8, {m.code->luts().size() / 256, 256});
            part(".encoded_exponent", TensorType::kU8, {bytes});
            part(".sign_mantissa", TensorType::kU8, {m.numbers});
            part(".output_positions", TensorType::kU8, {4 * (Dfloat11::blocks(bytes) + 1)});
            part(".gaps", TensorType::kU8, {Dfloat11::gap_bytes(bytes)});
            part(".split_positions", TensorType::kI64, {m.tensors.size() - 1});
        }
        return out;
    }

    // Codes are decoded again, and the exponents compared by their hash.
    [[nodiscard]] bool write(const Module& m, TensorWriter& writer) {
        Dfloat11Encoder encoder(*m.code);
        std::vector<std::uint8_t> codes, rest;
        std::vector<std::int64_t> splits;
        codes.reserve(static_cast<std::size_t>(m.code->bytes(m.counts)));
        Sha256 hash;
        std::uint64_t number = 0;
        for (const TensorEntry* tensor : m.tensors) {
            if (number > 0) splits.push_back(static_cast<std::int64_t>(number));
            const bool whole =
                each_piece(*tensor, [&](std::uint64_t, std::span<const std::byte> b) {
                    const std::span<const std::uint16_t> numbers = numbers_in(b);
                    encoder.encode(numbers, codes);
                    rest.resize(numbers.size());
                    std::transform(numbers.begin(), numbers.end(), rest.begin(), rest_of_bf16);
                    writer.write(m.first + kRest, number, std::as_bytes(std::span(rest)));
                    std::transform(numbers.begin(), numbers.end(), rest.begin(), exponent_of_bf16);
                    hash.update(std::as_bytes(std::span(rest)));
                    number += numbers.size();
                });
            if (!whole) return false;
        }
        encoder.finish(codes);
        const Dfloat11Decoder decoder(
            {m.code->luts(), codes, encoder.gaps(), encoder.output_positions()});
        Sha256 again;
        bool same = decoder.problem(m.numbers).empty();
        for (std::int64_t b = 0; same && b < decoder.blocks(); ++b) {
            const auto& positions = encoder.output_positions();
            const auto at = static_cast<std::size_t>(b);
            rest.resize(positions[at + 1] - positions[at]);
            same = decoder.decode(b, rest.data());
            again.update(std::as_bytes(std::span(rest)));
        }
        if (!same || hash.finish() != again.finish())
            throw Error(Exit::kFailure, m.name, "does not decode to what was coded");
        const auto put = [&](Part part, const auto& values) {
            writer.write(m.first + part, 0, std::as_bytes(std::span(values)));
        };
        put(kLuts, m.code->luts()), put(kCodes, codes), put(kGaps, encoder.gaps());
        put(kPositions, encoder.output_positions());
        if (!splits.empty()) put(kSplits, splits);
        const std::uint64_t stored = m.numbers + codes.size() + encoder.gaps().size() +
                                     4 * encoder.output_positions().size() + m.code->luts().size() +
                                     8 * splits.size();
        reports_.push_back(
            {m.name, m.numbers, 2 * m.numbers, stored, true, 8 + entropy_bits(m.counts)});
        return true;
    }

    LosslessOptions options_;
    std::unique_ptr<ModelFile> file_;
    std::string where_;
    std::vector<const TensorEntry*> plain_;
    std::vector<Module> modules_;
    std::uint64_t total_ = 0, done_ = 0, output_bytes_ = 0;
    const LosslessProgress* progress_ = nullptr;
};

}  // namespace

std::unique_ptr<LosslessJob> write_reference(const LosslessOptions& options) {
    return std::make_unique<WriteReference>(options);
}

}  // namespace thimble
