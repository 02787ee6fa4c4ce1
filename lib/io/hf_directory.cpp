// SPDX-License-Identifier: Apache-2.0
#include "io/hf_directory.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/ledger.h"
#include "io/atomic_directory.h"
#include "io/checkpointed_file.h"
#include "io/file.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

bool is_weights(std::string_view name) {
    static constexpr std::array<std::string_view, 12> kSuffixes = {
        ".safetensors", ".index.json", ".bin", ".pt",      ".pth", ".ckpt",
        ".gguf",        ".onnx",       ".h5",  ".msgpack", ".ot",  ".partial"};
    return std::any_of(kSuffixes.begin(), kSuffixes.end(),
                       [&](std::string_view suffix) { return name.ends_with(suffix); });
}

// Collects pieces into writes of kSideBufferBytes.
class BufferedFile {
  public:
    BufferedFile(const std::string& path, std::uint64_t bytes)
        : charge_(Tier::kRam, Purpose::kIo, kSideBufferBytes),
          file_(path, bytes, IfExists::kReplace) {
        buffer_.reserve(kSideBufferBytes);
    }
    void append(std::string_view text) {
        while (!text.empty()) {
            const std::size_t piece = std::min(text.size(), kSideBufferBytes - buffer_.size());
            buffer_ += text.substr(0, piece);
            text.remove_prefix(piece);
            if (buffer_.size() == kSideBufferBytes) flush();
        }
    }
    std::uint64_t finish() {
        flush();
        file_.commit();
        return written_;
    }

  private:
    void flush() {
        file_.write(written_, std::as_bytes(std::span(buffer_)));
        written_ += buffer_.size();
        buffer_.clear();
    }
    Charge charge_;
    AtomicFile file_;
    std::string buffer_;
    std::uint64_t written_ = 0;
};

}  // namespace

SideFile side_file(std::string name, std::string text) {
    SideFile file{std::move(name), text.size(), {}};
    file.write = [text = std::move(text)](const TextSink& sink) { sink(text); };
    return file;
}

SideFile side_file(std::string name, std::function<void(const TextSink&)> write) {
    SideFile file{std::move(name), 0, std::move(write)};
    file.write([&](std::string_view text) { file.bytes += text.size(); });
    return file;
}

std::vector<SideFile> side_files_of(const std::string& directory) {
    std::vector<SideFile> files;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with('.') || is_weights(name) || !entry.is_regular_file()) continue;
        const auto source = std::make_shared<const File>(entry.path().string());
        files.push_back({name, source->bytes(), [source](const TextSink& sink) {
                             std::array<char, 4096> piece{};
                             source->check_unchanged();
                             for (std::uint64_t at = 0; at < source->bytes();) {
                                 const auto n = static_cast<std::size_t>(
                                     std::min<std::uint64_t>(piece.size(), source->bytes() - at));
                                 source->read(at,
                                              std::as_writable_bytes(std::span(piece.data(), n)));
                                 sink({piece.data(), n});
                                 at += n;
                             }
                         }});
    }
    std::sort(files.begin(), files.end(),
              [](const SideFile& a, const SideFile& b) { return a.name < b.name; });
    return files;
}

std::uint64_t total_bytes(const std::vector<SideFile>& files) noexcept {
    std::uint64_t sum = 0;
    for (const SideFile& file : files) sum += file.bytes;
    return sum;
}

namespace {

// What of a killed run's directory this one goes on with: weights of the same names.
AtomicDirectory::Keeps kept_files(const std::string& path, const std::vector<TensorSpec>& tensors,
                                  const SafetensorsOptions& options) {
    if (options.build.empty()) return {};
    std::set<std::string, std::less<>> names;
    for (const std::string& name : SafetensorsWriter::predict(path, tensors, options).shards)
        names.insert({name, name + ".partial", CheckpointedFile::log_path(name)});
    return [names](std::string_view name) { return names.find(name) != names.end(); };
}

// The directory is new: whatever is left in it may be replaced.
SafetensorsOptions inner(SafetensorsOptions options) {
    options.if_exists = IfExists::kReplace;
    return options;
}

}  // namespace

struct HfDirectoryWriter::State {
    AtomicDirectory directory;
    SafetensorsWriter weights;
    std::uint64_t side_bytes = 0;
    State(const std::string& path, std::vector<TensorSpec> tensors,
          const SafetensorsOptions& options)
        : directory(path, options.if_exists, kept_files(path, tensors, options)),
          weights(directory.partial(), std::move(tensors), inner(options)) {}
};

HfDirectoryWriter::HfDirectoryWriter(const std::string& path, std::vector<TensorSpec> tensors,
                                     const std::vector<SideFile>& files,
                                     const SafetensorsOptions& options)
    : state_(std::make_unique<State>(path, std::move(tensors), options)) {
    for (const SideFile& side : files) {
        BufferedFile out(state_->directory.partial() + "/" + side.name, side.bytes);
        side.write([&](std::string_view text) { out.append(text); });
        const std::uint64_t written = out.finish();
        if (written != side.bytes) {
            throw Error(Exit::kIo, escaped(side.name, 255),
                        std::to_string(written) + " bytes were written where " +
                            std::to_string(side.bytes) + " were expected");
        }
        state_->side_bytes += written;
    }
}

HfDirectoryWriter::~HfDirectoryWriter() = default;

std::uint64_t HfDirectoryWriter::file_bytes() const noexcept {
    return state_->weights.file_bytes() + state_->side_bytes;
}

void HfDirectoryWriter::write(std::size_t tensor, std::uint64_t offset,
                              std::span<const std::byte> bytes) {
    state_->weights.write(tensor, offset, bytes);
}

void HfDirectoryWriter::finish() {
    state_->weights.finish();
    state_->directory.commit();
}

TensorWriter::Position HfDirectoryWriter::start() const noexcept { return state_->weights.start(); }

void HfDirectoryWriter::checkpoint(Position position) { state_->weights.checkpoint(position); }

void HfDirectoryWriter::abandon() noexcept {
    state_->weights.abandon();
    state_->directory.drop();
}

}  // namespace thimble
