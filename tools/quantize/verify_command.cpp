// SPDX-License-Identifier: Apache-2.0
#include "verify_command.h"

#include <map>
#include <memory>
#include <unordered_set>

#include "common_options.h"
#include "core/error.h"
#include "core/log.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "quant/manifest.h"
#include "quant/verify.h"

namespace thimble {
namespace {

constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{64} << 20;
constexpr std::size_t kProblemsShown = 20;

struct VerifyOptions {
    std::string model, sha256, manifest, write_manifest;
    bool overwrite = false;

    void visit(OptionVisitor& v) {
        v.option(any_model_option(), model);
        v.option({.name = "sha256", .help = "the file's SHA-256 must be this", .value = "HEX"},
                 sha256);
        v.option({.name = "manifest",
                  .letter = 'c',
                  .help = "file of sums that must hold, as llama-gguf-hash or sha256sum write it",
                  .value = "FILE",
                  .is_input = true,
                  .also = "check"},
                 manifest);
        v.option({.name = "write-manifest",
                  .help = "write the tensors' sums as llama-gguf-hash does",
                  .value = "FILE",
                  .is_output = true},
                 write_manifest);
        v.option(
            {.name = "overwrite", .help = "replace an existing manifest", .changes_output = false},
            overwrite);
    }
};

class Verify {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }

    Plan plan() {
        file_ = ModelFile::open(options_.model);
        verifier_ = std::make_unique<ModelVerifier>(*file_);
        if (!options_.sha256.empty()) {
            wanted_ = parse_sha256(options_.sha256, "--sha256");
            if (file_->files().size() > 1) {
                throw Error(Exit::kUsage, "--sha256", "the model has several files",
                            "give --manifest");
            }
        }
        if (!options_.manifest.empty()) {
            manifest_ = Manifest::parse(read_text_file(options_.manifest, kMaxManifestBytes),
                                        escaped(options_.manifest, 1024));
        }
        Plan plan;
        plan.at(Tier::kRam, Purpose::kVocabulary) = file_->metadata().memory_bytes();
        plan.at(Tier::kRam, Purpose::kIo) = verifier_->buffer_bytes();
        return plan;
    }

    void run(cli::Context& context) {
        const bool whole =
            verifier_->run(context.team, [&](std::uint64_t done, std::uint64_t total) {
                context.progress("verify", static_cast<std::int64_t>(done >> 20),
                                 static_cast<std::int64_t>(total >> 20));
                return !context.interrupted();
            });
        if (!whole) return;
        find_problems();
        report(context.report);
        note_unchecked();
        if (!problems_.empty()) refuse();
        if (!options_.write_manifest.empty()) write();
        if (context.stdout_is_json()) return;
        for (const FileVerdict& file : verifier_->files())
            context.print(manifest_line({Summed::kFile, file.path, "", file.sha256}));
    }

  private:
    void find_problems() {
        const std::string model = escaped(options_.model, 1024);
        for (const TensorVerdict& t : verifier_->tensors()) {
            if (t.problem.empty()) continue;
            problems_.push_back("tensor '" + escaped(t.tensor->name) + "', " + t.problem);
        }
        if (!wanted_.empty() && verifier_->files().front().sha256 != wanted_)
            problems_.push_back("the file's SHA-256 is " + verifier_->files().front().sha256);
        if (!options_.manifest.empty()) compare_with_manifest();
    }

    void compare_with_manifest() {
        std::unordered_set<const ManifestEntry*> used;
        const auto compare = [&](const ManifestEntry* entry, const std::string& what,
                                 const std::string& sum) {
            if (entry == nullptr) return;
            used.insert(entry);
            if (entry->sha256 != sum) problems_.push_back(what + ": its SHA-256 is another");
        };
        for (const FileVerdict& file : verifier_->files()) {
            const std::string what = "'" + escaped(file.path) + "'";
            compare(manifest_.find(Summed::kFile, file.path), what, file.sha256);
            compare(manifest_.find(Summed::kAllTensors, file.path), what + ", all tensors",
                    file.tensors_sha256);
        }
        const bool by_tensor = has(Summed::kTensor);
        for (const TensorVerdict& t : verifier_->tensors()) {
            const FileVerdict& file = verifier_->files()[static_cast<std::size_t>(t.tensor->shard)];
            const auto* entry = manifest_.find(Summed::kTensor, file.path, t.tensor->name);
            const std::string what = "tensor '" + escaped(t.tensor->name) + "'";
            if (entry == nullptr && by_tensor) problems_.push_back(what + ": not in the manifest");
            compare(entry, what, t.sha256);
        }
        for (const ManifestEntry& entry : manifest_.entries()) {
            if (used.count(&entry) > 0) continue;
            const std::string name =
                entry.file + (entry.what == Summed::kTensor ? ":" + entry.tensor : "");
            problems_.push_back("the manifest names '" + escaped(name) +
                                "', which the model does not have");
        }
    }

    [[nodiscard]] bool has(Summed what) const {
        for (const ManifestEntry& entry : manifest_.entries()) {
            if (entry.what == what) return true;
        }
        return false;
    }

    void report(Json& report) const {
        Json files = Json::array(), tensors = Json::array(), problems = Json::array();
        for (const FileVerdict& file : verifier_->files()) {
            Json json = Json::object();
            json.set("name", file.path);
            json.set("sha256", file.sha256);
            json.set("tensors_sha256", file.tensors_sha256);
            files.push(std::move(json));
        }
        for (const TensorVerdict& t : verifier_->tensors()) {
            Json json = Json::object();
            json.set("name", t.tensor->name);
            json.set("type", find_tensor_type(t.tensor->type)->name);
            json.set("sha256", t.sha256);
            json.set("checked", t.checked);
            if (!t.problem.empty()) json.set("problem", t.problem);
            tensors.push(std::move(json));
        }
        for (const std::string& problem : problems_) problems.push(problem);
        report.set("files", std::move(files));
        report.set("tensors", std::move(tensors));
        report.set("problems", std::move(problems));
    }

    void note_unchecked() const {
        std::map<std::string_view, int> unchecked;  // by type
        for (const TensorVerdict& t : verifier_->tensors()) {
            if (!t.checked) ++unchecked[find_tensor_type(t.tensor->type)->name];
        }
        for (const auto& [type, count] : unchecked) {
            log_warning(std::to_string(count) + " tensors of " + std::string(type) +
                        ": their values were not checked, only summed");
        }
    }

    [[noreturn]] void refuse() const {
        for (std::size_t i = 1; i < std::min(problems_.size(), kProblemsShown); ++i)
            log_warning(problems_[i]);
        const std::size_t more = problems_.size() - 1;
        throw Error(Exit::kBadData, escaped(options_.model, 1024), problems_.front(),
                    more == 0 ? "" : "and " + std::to_string(more) + " more problems");
    }

    void write() const {
        std::string text;
        for (std::size_t shard = 0; shard < verifier_->files().size(); ++shard) {
            const FileVerdict& file = verifier_->files()[shard];
            for (const TensorVerdict& t : verifier_->tensors()) {
                if (t.tensor->shard != static_cast<int>(shard)) continue;
                text += manifest_line({Summed::kTensor, file.path, t.tensor->name, t.sha256});
            }
            text += manifest_line({Summed::kAllTensors, file.path, "", file.tensors_sha256});
        }
        write_text_file(options_.write_manifest, text,
                        options_.overwrite ? IfExists::kReplace : IfExists::kRefuse);
    }

    VerifyOptions options_;
    std::unique_ptr<ModelFile> file_;
    std::unique_ptr<ModelVerifier> verifier_;
    std::string wanted_;
    Manifest manifest_;
    std::vector<std::string> problems_;
};

}  // namespace

cli::Command verify_command() {
    const auto verify = std::make_shared<Verify>();
    cli::Command c;
    c.name = "verify";
    c.help = "read all of a model: finite scales and values, SHA-256 of file and tensors";
    c.options = [verify](OptionVisitor& v) { verify->visit(v); };
    c.plan = [verify](const cli::CommonOptions&) { return verify->plan(); };
    c.run = [verify](cli::Context& context) { verify->run(context); };
    return c;
}

}  // namespace thimble
