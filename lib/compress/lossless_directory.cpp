// SPDX-License-Identifier: Apache-2.0
// A Hugging Face directory file by file: weights coded, the others as they are, a manifest beside
// them.
#include <algorithm>
#include <filesystem>

#include "compress/lossless.h"
#include "core/error.h"
#include "io/atomic_directory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/sha256.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
constexpr int kVersion = 1;
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
constexpr std::string_view kWeights = ".safetensors", kCoded = ".gguf";

// The directory's files by name; Error(kUsage) where there is something else.
std::vector<std::string> files_in(const std::string& directory) {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
        std::string name = entry.path().filename().string();
        if (entry.is_directory() && name.starts_with('.')) continue;  // a program's own, as a cache
        if (!entry.is_regular_file()) {
            throw Error(Exit::kUsage, escaped(directory, 1024),
                        "holds '" + escaped(name, 255) + "', which is not a file",
                        "move it away, or give the weights' files one by one");
        }
        names.push_back(std::move(name));
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::string in_directory(const std::string& directory, const std::string& name) {
    return (fs::path(directory) / name).string();
}

// One file on its way.
struct Part {
    std::string name;                  // in the source
    std::unique_ptr<LosslessJob> job;  // null: it is copied
    std::uint64_t bytes = 0;           // in the source
    std::string sha256;                // of the source, where it is known
};

// Parts into a new directory, one after the other.
class DirectoryJob : public LosslessJob {
  public:
    Plan plan() override {
        Plan plan;
        for (Part& part : parts_) {
            if (!part.job) {
                plan.output_bytes += part.bytes;
                continue;
            }
            const Plan one = part.job->plan();
            plan.output_bytes += one.output_bytes;
            for (std::size_t tier = 0; tier < plan.bytes.size(); ++tier)
                for (std::size_t i = 0; i < plan.bytes[tier].size(); ++i)
                    plan.bytes[tier][i] = std::max(plan.bytes[tier][i], one.bytes[tier][i]);
            plan.notes = one.notes;
        }
        plan.at(Tier::kRam, Purpose::kIo) += kPieceBytes;
        plan.at(Tier::kDisk, Purpose::kWeights) = plan.output_bytes;
        return plan;
    }
    std::uint64_t input_bytes() const noexcept override { return input_bytes_; }
    std::uint64_t output_bytes() const noexcept override { return output_bytes_; }

  protected:
    // Each part under the name that it has in the output; false when `progress` stopped it.
    template <class NameOf>
    bool write_parts(const std::string& to, Team& team, Isa isa, const LosslessProgress& progress,
                     NameOf&& name_of) {
        std::uint64_t before = 0, all = 0;
        for (const Part& part : parts_) all += part.bytes;
        for (Part& part : parts_) {
            const std::string path = in_directory(to, name_of(part));
            if (part.job) part.job = make_job(part, path);
            const LosslessProgress own = [&](std::uint64_t done, std::uint64_t total) {
                const double share = static_cast<double>(done) / static_cast<double>(total + 1);
                const auto bytes =
                    static_cast<std::uint64_t>(share * static_cast<double>(part.bytes));
                return progress(before + bytes, all);
            };
            if (!(part.job ? part.job->run(team, isa, own) : copy(part, path))) return false;
            if (part.job) {
                for (LosslessReport report : part.job->reports()) {
                    report.name = part.name + ": " + report.name;
                    reports_.push_back(std::move(report));
                }
                if (part.sha256.empty()) part.sha256 = part.job->sha256();
            }
            output_bytes_ += fs::file_size(path);
            before += part.bytes;
            if (!progress(before, all)) return false;
        }
        return true;
    }

    // Of a part that is not copied.
    [[nodiscard]] virtual std::unique_ptr<LosslessJob> make_job(const Part& part,
                                                                std::string path) const = 0;
    [[nodiscard]] static IfExists if_exists(const LosslessOptions& options) noexcept {
        return options.overwrite ? IfExists::kReplace : IfExists::kRefuse;
    }

    std::vector<Part> parts_;
    std::string from_;
    std::uint64_t input_bytes_ = 0, output_bytes_ = 0;

  private:
    bool copy(Part& part, const std::string& path) const {
        const File in(in_directory(from_, part.name));
        if (in.bytes() != part.bytes)
            throw Error(Exit::kBadData, escaped(in.path(), 1024), "is not of the size that it had");
        AtomicFile out(path, in.bytes(), IfExists::kReplace);
        Buffer buffer(kPieceBytes, Purpose::kIo);
        Sha256 hash;
        for (std::uint64_t at = 0; at < in.bytes();) {
            const auto n =
                static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, in.bytes() - at));
            const std::span<std::byte> piece(buffer.data(), n);
            in.read(at, piece);
            out.write(at, piece);
            hash.update(piece);
            at += n;
        }
        const std::string is = hash.finish();
        if (!part.sha256.empty() && part.sha256 != is)
            throw Error(
                Exit::kBadData, escaped(in.path(), 1024),
                "is not what was compressed: SHA-256 " + is + ", expected " + escaped(part.sha256));
        part.sha256 = is;
        out.commit();
        return true;
    }
};

class CompressDirectory final : public DirectoryJob {
  public:
    explicit CompressDirectory(const LosslessOptions& options) : options_(options) {
        from_ = options.model;
        if (fs::exists(in_directory(from_, kManifest)))
            throw Error(Exit::kUsage, escaped(from_, 1024), "is compressed already");
        bool weights = false;
        for (std::string& name : files_in(from_)) {
            Part part;
            part.name = std::move(name);
            const std::string path = in_directory(from_, part.name);
            if (part.name.ends_with(kCoded))
                throw Error(Exit::kUsage, escaped(path, 1024), "is a GGUF file beside others",
                            "compress it alone; parts of one model are joined by quantize merge");
            part.bytes = fs::file_size(path);
            input_bytes_ += part.bytes;
            if (part.name.ends_with(kWeights)) {
                weights = true;
                part.job = make_job(part, in_directory(options.output, part.name));
            }
            parts_.push_back(std::move(part));
        }
        if (!weights)
            throw Error(Exit::kUsage, escaped(from_, 1024), "holds no .safetensors file",
                        "convert other weight files to safetensors first");
    }

    bool run(Team& team, Isa isa, const LosslessProgress& progress) override {
        AtomicDirectory directory(options_.output, if_exists(options_));
        const auto name_of = [](const Part& part) {
            return part.job ? part.name + std::string(kCoded) : part.name;
        };
        if (!write_parts(directory.partial(), team, isa, progress, name_of)) return false;
        Json files = Json::array();
        for (const Part& part : parts_) {
            Json one = Json::object();
            one.set("name", part.name);
            one.set("coded", part.job != nullptr);
            one.set("bytes", part.bytes);
            one.set("sha256", part.sha256);
            files.push(std::move(one));
        }
        Json manifest = Json::object();
        manifest.set("version", kVersion);
        manifest.set("files", std::move(files));
        const std::string text = manifest.dump(2) + "\n";
        write_text_file(in_directory(directory.partial(), kManifest), text, IfExists::kReplace);
        output_bytes_ += text.size();
        directory.commit();
        return true;
    }

  private:
    [[nodiscard]] std::unique_ptr<LosslessJob> make_job(const Part& part,
                                                        std::string path) const override {
        return compress_file(
            {in_directory(from_, part.name), std::move(path), options_.layout, true});
    }
    LosslessOptions options_;
};

class DecompressDirectory final : public DirectoryJob {
  public:
    explicit DecompressDirectory(const LosslessOptions& options) : options_(options) {
        from_ = options.model;
        const std::string path = in_directory(from_, kManifest), where = escaped(path, 1024);
        if (!fs::exists(path))
            throw Error(Exit::kUsage, escaped(from_, 1024),
                        "is not a directory that compress wrote",
                        std::string("it holds no ") + kManifest);
        const Json manifest = read_json_file(path);
        const auto member = [&](const Json& of, const char* key) -> const Json& {
            if (const Json* found = of.find(key)) return *found;
            throw Error(Exit::kBadData, where, "lacks '" + std::string(key) + "'");
        };
        if (member(manifest, "version").as_int(where) != kVersion)
            throw Error(Exit::kBadData, where, "is of a version that this program does not know");
        for (const Json& file : member(manifest, "files").as_array(where)) {
            Part part;
            part.name = member(file, "name").as_string(where);
            if (part.name.empty() || part.name.starts_with("..") || part.name == "." ||
                part.name.find_first_of(std::string_view("/\0", 2)) != std::string::npos)
                throw Error(Exit::kBadData, where,
                            "names '" + escaped(part.name, 255) + "', which is no plain name");
            const std::int64_t bytes = member(file, "bytes").as_int(where);
            part.bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0));
            part.sha256 = member(file, "sha256").as_string(where);
            if (member(file, "coded").as_bool(where)) {
                part.job = make_job(part, in_directory(options.output, part.name));
                if (part.job->sha256() != part.sha256)
                    throw Error(Exit::kBadData, where,
                                "and the file of '" + escaped(part.name, 255) + "' do not agree");
                input_bytes_ += part.job->input_bytes();
            } else {
                input_bytes_ += part.bytes;
            }
            parts_.push_back(std::move(part));
        }
    }

    bool run(Team& team, Isa isa, const LosslessProgress& progress) override {
        AtomicDirectory directory(options_.output, if_exists(options_));
        if (!write_parts(directory.partial(), team, isa, progress,
                         [](const Part& part) { return part.name; }))
            return false;
        directory.commit();
        return true;
    }

  private:
    [[nodiscard]] std::unique_ptr<LosslessJob> make_job(const Part& part,
                                                        std::string path) const override {
        return decompress_file({in_directory(from_, part.name + std::string(kCoded)),
                                std::move(path), options_.layout, true});
    }
    LosslessOptions options_;
};

}  // namespace

std::unique_ptr<LosslessJob> compress_directory(const LosslessOptions& options) {
    refuse_overwriting_inputs(options.output, {&options.model, 1});
    return std::make_unique<CompressDirectory>(options);
}

std::unique_ptr<LosslessJob> decompress_directory(const LosslessOptions& options) {
    refuse_overwriting_inputs(options.output, {&options.model, 1});
    return std::make_unique<DecompressDirectory>(options);
}

}  // namespace thimble
