// SPDX-License-Identifier: Apache-2.0
// A directory in the layout of DFloat11's authors (reference_layout.h) back to bfloat16. What comes
// back are the tensors; in which files they lay is not stored.
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

#include "codec/dfloat11.h"
#include "compress/lossless.h"
#include "compress/reference_layout.h"
#include "core/error.h"
#include "io/hf_directory.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
constexpr std::int64_t kBatch = 16;  // blocks at work at once
constexpr std::string_view kCodes = ".encoded_exponent";
constexpr std::array<std::string_view, 6> kParts = {
    ".luts", kCodes, ".sign_mantissa", ".output_positions", ".gaps", ".split_positions"};

// A tensor and the file that it is in.
struct Found {
    const ModelFile* file = nullptr;
    const TensorEntry* entry = nullptr;
};

// Matrices under one code.
struct Module {
    std::string name;
    std::vector<TensorSpec> matrices;
    std::vector<std::uint64_t> ends;  // of their numbers
    std::size_t first = 0;            // in the output
};

class ReadReference final : public LosslessJob {
  public:
    explicit ReadReference(const LosslessOptions& options) : options_(options) {
        refuse_overwriting_inputs(options.output, {&options.model, 1});
        const std::string config = (fs::path(options.model) / "config.json").string();
        where_ = escaped(config, 1024);
        config_ = read_json_file(config);
        open_files();
        check_config();
        const std::uint64_t hidden = reference_width(config_, where_);
        for (const auto& [name, found] : tensors_) {
            if (!name.ends_with(kCodes)) continue;
            modules_.push_back(module(name.substr(0, name.size() - kCodes.size()), hidden));
        }
        for (const auto& [name, found] : tensors_) {
            if (!is_part(name)) plain_.push_back(found);
        }
    }

    Plan plan() override {
        Plan plan;
        std::uint64_t most = 0;
        for (const Module& m : modules_) {
            std::uint64_t held = 0;
            for (const char* part : {".luts", ".encoded_exponent", ".output_positions", ".gaps"})
                held += tensors_.at(m.name + part).entry->bytes;
            most = std::max(most, held);
        }
        for (const TensorSpec& spec : specs())
            plan.output_bytes += tensor_bytes(spec.type, spec.dims).value_or(0);
        plan.at(Tier::kRam, Purpose::kIo) = 2 * kPieceBytes + most;
        plan.at(Tier::kDisk, Purpose::kWeights) = plan.output_bytes;
        return plan;
    }

    bool run(Team& team, Isa, const LosslessProgress& progress) override {
        progress_ = &progress;
        std::vector<SideFile> sides = side_files_of(options_.model);
        std::erase_if(sides, [](const SideFile& side) { return side.name == "config.json"; });
        sides.push_back(
            side_file("config.json", with_reference_config(config_, nullptr).dump(2) + "\n"));
        SafetensorsOptions writing;
        writing.if_exists = options_.overwrite ? IfExists::kReplace : IfExists::kRefuse;
        HfDirectoryWriter writer(options_.output, specs(), sides, writing);
        output_bytes_ = writer.file_bytes();
        const Charge disk(Tier::kDisk, Purpose::kWeights, output_bytes_);
        for (std::size_t i = 0; i < plain_.size(); ++i)
            if (!copy(plain_[i], i, writer)) return false;
        for (const Module& m : modules_)
            if (!decode(m, team, writer)) return false;
        writer.finish();
        return true;
    }

    std::uint64_t input_bytes() const noexcept override { return input_bytes_; }
    std::uint64_t output_bytes() const noexcept override { return output_bytes_; }

  private:
    [[nodiscard]] Error damaged(const std::string& module, const std::string& what) const {
        return {Exit::kBadData, escaped(options_.model, 1024),
                "module '" + escaped(module) + "' " + what};
    }

    void open_files() {
        std::vector<std::string> paths;
        for (const fs::directory_entry& entry : fs::directory_iterator(options_.model))
            if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
        std::sort(paths.begin(), paths.end());
        for (const std::string& path : paths) {
            files_.push_back(ModelFile::open(path));
            input_bytes_ += files_.back()->file_bytes();
            for (const TensorEntry& entry : files_.back()->tensors()) {
                if (!tensors_.try_emplace(entry.name, Found{files_.back().get(), &entry}).second)
                    throw Error(Exit::kBadData, escaped(path, 1024),
                                "tensor '" + escaped(entry.name) + "' is in another file, too");
            }
        }
    }

    void check_config() {
        const Json& config = *config_.find(kReferenceConfig);
        const auto is = [&](const char* key, std::int64_t value) {
            const Json* found = config.find(key);
            if (found != nullptr && found->is_array() && found->as_array(where_).size() == 1)
                found = &found->as_array(where_)[0];
            if (found == nullptr || found->as_int(where_) != value)
                throw Error(Exit::kBadData, where_,
                            "'" + std::string(key) + "' must be " + std::to_string(value));
        };
        is("threads_per_block", Dfloat11::kThreads);
        is("bytes_per_thread", Dfloat11::kThreadBytes);
        patterns_ = config.find("pattern_dict");
        if (patterns_ == nullptr || !patterns_->is_object())
            throw Error(Exit::kBadData, where_, "lacks 'pattern_dict'");
    }

    [[nodiscard]] const Found& part(const std::string& module, const char* name, TensorType type,
                                    std::uint64_t bytes) const {
        const auto at = tensors_.find(module + name);
        if (at == tensors_.end())
            throw damaged(module, "lacks tensor '" + std::string(name + 1) + "'");
        const TensorEntry& entry = *at->second.entry;
        if (entry.type != type || (bytes != UINT64_MAX && entry.bytes != bytes))
            throw damaged(module,
                          "has a tensor '" + std::string(name + 1) + "' of another size or type");
        return at->second;
    }
    [[nodiscard]] bool is_part(const std::string& name) const {
        const std::size_t dot = std::min(name.rfind('.'), name.size());
        return std::find(kParts.begin(), kParts.end(), name.substr(dot)) != kParts.end() &&
               tensors_.contains(name.substr(0, dot) + std::string(kCodes));
    }

    [[nodiscard]] Module module(const std::string& name, std::uint64_t hidden) const {
        (void)part(name, ".luts", TensorType::kU8, UINT64_MAX);
        (void)part(name, ".gaps", TensorType::kU8, UINT64_MAX);
        (void)part(name, ".encoded_exponent", TensorType::kU8, UINT64_MAX);
        (void)part(name, ".output_positions", TensorType::kU8, UINT64_MAX);
        const Found& rest = part(name, ".sign_mantissa", TensorType::kU8, UINT64_MAX);
        const std::vector<std::string> paths = paths_of(name);
        Module m;
        m.name = name;
        std::vector<std::int64_t> splits(paths.size() - 1);
        const Found& split =
            part(name, ".split_positions", TensorType::kI64, splits.size() * sizeof splits[0]);
        split.file->read(*split.entry, 0, std::as_writable_bytes(std::span(splits)));
        std::uint64_t begin = 0;
        for (std::size_t i = 0; i < paths.size(); ++i) {
            const std::uint64_t end =
                i < splits.size() ? static_cast<std::uint64_t>(splits[i]) : rest.entry->bytes;
            const auto dims = end > rest.entry->bytes || end < begin
                                  ? std::nullopt
                                  : reference_dims(paths[i], end - begin, hidden);
            if (!dims)
                throw damaged(name, "has matrix '" + escaped(paths[i]) +
                                        "', whose shape does not follow from its name and size");
            m.matrices.push_back({paths[i] + ".weight", TensorType::kBF16, *dims});
            m.ends.push_back(end);
            begin = end;
        }
        return m;
    }

    // Whole paths of a module's matrices.
    [[nodiscard]] std::vector<std::string> paths_of(const std::string& module) const {
        for (const auto& [pattern, paths] : patterns_->as_members(where_)) {
            if (!matches_pattern(pattern, module, where_)) continue;
            std::vector<std::string> out;
            for (const Json& path : paths.as_array(where_))
                out.push_back(module + "." + path.as_string(where_));
            if (out.empty()) out.push_back(module);
            return out;
        }
        throw damaged(module, "has no pattern in 'pattern_dict'");
    }

    [[nodiscard]] std::vector<TensorSpec> specs() {
        std::vector<TensorSpec> out;
        for (const Found& found : plain_)
            out.push_back({found.entry->name, found.entry->type, found.entry->dims});
        for (Module& m : modules_) {
            m.first = out.size();
            out.insert(out.end(), m.matrices.begin(), m.matrices.end());
        }
        return out;
    }

    bool advance(std::uint64_t bytes) { return (*progress_)(done_ += bytes, input_bytes_); }

    bool copy(const Found& found, std::size_t to, TensorWriter& writer) {
        Buffer buffer(kPieceBytes, Purpose::kIo);
        for (std::uint64_t at = 0; at < found.entry->bytes;) {
            const auto n = static_cast<std::size_t>(
                std::min<std::uint64_t>(kPieceBytes, found.entry->bytes - at));
            const std::span<std::byte> piece(buffer.data(), n);
            found.file->read(*found.entry, at, piece);
            writer.write(to, at, piece);
            at += n;
            if (!advance(n)) return false;
        }
        return true;
    }

    template <class T>
    [[nodiscard]] std::vector<T> whole(const std::string& module, const char* name) const {
        const Found& found = tensors_.at(module + name);
        std::vector<T> out(static_cast<std::size_t>(found.entry->bytes / sizeof(T)));
        found.file->read(*found.entry, 0, std::as_writable_bytes(std::span(out)));
        return out;
    }

    bool decode(const Module& m, Team& team, TensorWriter& writer) {
        const auto luts = whole<std::uint8_t>(m.name, ".luts");
        const auto codes = whole<std::uint8_t>(m.name, ".encoded_exponent");
        const auto gaps = whole<std::uint8_t>(m.name, ".gaps");
        const auto positions = whole<std::uint32_t>(m.name, ".output_positions");
        const Found& rest = tensors_.at(m.name + ".sign_mantissa");
        const Dfloat11Decoder decoder({luts, codes, gaps, positions});
        if (const std::string problem = decoder.problem(rest.entry->bytes); !problem.empty())
            throw damaged(m.name, problem);
        std::vector<std::uint8_t> exponents, others;
        std::vector<std::uint16_t> numbers;
        for (std::int64_t b = 0; b < decoder.blocks(); b += kBatch) {
            const std::int64_t end = std::min(b + kBatch, decoder.blocks());
            const std::uint64_t first = positions[static_cast<std::size_t>(b)];
            const auto count =
                static_cast<std::size_t>(positions[static_cast<std::size_t>(end)] - first);
            exponents.resize(count), others.resize(count), numbers.resize(count);
            rest.file->read(*rest.entry, first, std::as_writable_bytes(std::span(others)));
            team.run(end - b, 2, [&](std::int64_t from, std::int64_t until) {
                for (std::int64_t i = b + from; i < b + until; ++i) {
                    const std::size_t at = positions[static_cast<std::size_t>(i)] - first;
                    const std::size_t after = positions[static_cast<std::size_t>(i) + 1] - first;
                    if (!decoder.decode(i, exponents.data() + at))
                        throw damaged(m.name, "has damaged codes in block " + std::to_string(i));
                    for (std::size_t k = at; k < after; ++k)
                        numbers[k] = static_cast<std::uint16_t>((others[k] & 0x80u) << 8 |
                                                                unsigned{exponents[k]} << 7 |
                                                                (others[k] & 0x7fu));
                }
            });
            put(m, first, numbers, writer);
            if (!advance(count + static_cast<std::uint64_t>(end - b) * Dfloat11::kBlockBytes))
                return false;
        }
        std::uint64_t stored = 0;
        for (const char* part : {".luts", ".encoded_exponent", ".output_positions", ".gaps"})
            stored += tensors_.at(m.name + part).entry->bytes;
        reports_.push_back({m.name, rest.entry->bytes, 2 * rest.entry->bytes,
                            stored + rest.entry->bytes, true, 0});
        return true;
    }

    // Numbers from `first` on to the matrices that they are of.
    static void put(const Module& m, std::uint64_t first, std::span<const std::uint16_t> numbers,
                    TensorWriter& writer) {
        std::uint64_t begin = 0;
        for (std::size_t i = 0; i < m.ends.size(); begin = m.ends[i++]) {
            const std::uint64_t from = std::max(begin, first);
            const std::uint64_t until = std::min<std::uint64_t>(m.ends[i], first + numbers.size());
            if (from >= until) continue;
            const auto part = numbers.subspan(static_cast<std::size_t>(from - first),
                                              static_cast<std::size_t>(until - from));
            writer.write(m.first + i, 2 * (from - begin), std::as_bytes(part));
        }
    }

    LosslessOptions options_;
    std::string where_;
    Json config_;
    const Json* patterns_ = nullptr;
    std::vector<std::unique_ptr<ModelFile>> files_;
    std::map<std::string, Found> tensors_;
    std::vector<Module> modules_;
    std::vector<Found> plain_;
    std::uint64_t input_bytes_ = 0, output_bytes_ = 0, done_ = 0;
    const LosslessProgress* progress_ = nullptr;
};

}  // namespace

std::unique_ptr<LosslessJob> read_reference(const LosslessOptions& options) {
    return std::make_unique<ReadReference>(options);
}

}  // namespace thimble
