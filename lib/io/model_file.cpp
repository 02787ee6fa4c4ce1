// SPDX-License-Identifier: Apache-2.0
#include "io/model_file.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "core/checked.h"
#include "core/error.h"
#include "core/ledger.h"
#include "core/strings.h"
#include "io/container.h"

namespace thimble {
namespace {

constexpr std::uint64_t kPage = 4096;

// One shard's read-only mapping.
class Mapping {
  public:
    explicit Mapping(const File& file) : bytes_(file.bytes()) {
        if (bytes_ == 0) return;
        file.check_unchanged();
        void* p = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
        if (p == MAP_FAILED) {
            throw Error(Exit::kIo, escaped(file.path(), 1024),
                        std::string("cannot map: ") + std::strerror(errno));
        }
        data_ = static_cast<std::byte*>(p);
    }
    ~Mapping() {
        if (data_ != nullptr) ::munmap(data_, bytes_);
    }
    Mapping(Mapping&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
    Mapping& operator=(Mapping&&) = delete;
    [[nodiscard]] std::byte* data() const noexcept { return data_; }

  private:
    std::byte* data_ = nullptr;
    std::uint64_t bytes_ = 0;
};

class ShardedFile final : public ModelFile {
  public:
    ShardedFile(std::string path, ContainerParts parts)
        : path_(std::move(path)), parts_(std::move(parts)), dropped_(parts_.tensors.size()) {
        for (std::size_t i = 0; i < parts_.tensors.size(); ++i)
            index_.emplace(parts_.tensors[i].name, i);
        header_charge_ = Charge(Tier::kRam, Purpose::kVocabulary, parts_.metadata.memory_bytes());
    }

    Container container() const noexcept override { return parts_.container; }
    const std::string& path() const noexcept override { return path_; }
    const Metadata& metadata() const noexcept override { return parts_.metadata; }
    const Json& config() const noexcept override { return parts_.config; }
    const std::vector<TensorEntry>& tensors() const noexcept override { return parts_.tensors; }
    const TensorEntry* find(std::string_view name) const noexcept override {
        const auto at = index_.find(name);
        return at == index_.end() ? nullptr : &parts_.tensors[at->second];
    }
    std::vector<std::string> files() const override {
        std::vector<std::string> paths;
        for (const File& shard : parts_.shards) paths.push_back(shard.path());
        return paths;
    }
    std::uint64_t file_bytes() const noexcept override {
        std::uint64_t sum = 0;
        for (const File& shard : parts_.shards) sum += shard.bytes();
        return sum;
    }

    void read(const TensorEntry& tensor, std::uint64_t offset,
              std::span<std::byte> out) const override {
        if (offset > tensor.bytes || out.size() > tensor.bytes - offset) {
            throw Error(Exit::kFailure, escaped(tensor.name),
                        "bytes asked for lie outside the tensor");
        }
        shard(tensor).read(tensor.offset + offset, out);
    }

    std::span<const std::byte> map(const TensorEntry& tensor) override {
        if (mappings_.empty()) map_shards();
        if (tensor.bytes == 0) return {};
        if (std::uint64_t& dropped = dropped_at(tensor); dropped > 0) {
            charge_.resize(charge_.bytes() + dropped);  // its pages will come back
            dropped = 0;
        }
        return {mappings_[static_cast<std::size_t>(tensor.shard)].data() + tensor.offset,
                tensor.bytes};
    }

    void drop_pages(const TensorEntry& tensor) noexcept override {
        if (mappings_.empty() || dropped_at(tensor) > 0) return;
        const std::uint64_t begin = (tensor.offset + kPage - 1) & ~(kPage - 1);
        const std::uint64_t end = (tensor.offset + tensor.bytes) & ~(kPage - 1);
        if (end <= begin) return;
        ::madvise(mappings_[static_cast<std::size_t>(tensor.shard)].data() + begin, end - begin,
                  MADV_DONTNEED);
        dropped_at(tensor) = end - begin;
        charge_.resize(charge_.bytes() - (end - begin));
    }

  private:
    [[nodiscard]] const File& shard(const TensorEntry& tensor) const {
        return parts_.shards[static_cast<std::size_t>(tensor.shard)];
    }
    [[nodiscard]] std::uint64_t& dropped_at(const TensorEntry& tensor) noexcept {
        return dropped_[static_cast<std::size_t>(&tensor - parts_.tensors.data())];
    }
    void map_shards() {
        std::uint64_t bytes = 0;
        for (const File& file : parts_.shards) bytes += ceil_div(file.bytes(), kPage) * kPage;
        charge_ = Charge(Tier::kRam, Purpose::kWeights, bytes);
        std::vector<Mapping> mappings;
        for (const File& file : parts_.shards) mappings.emplace_back(file);
        mappings_ = std::move(mappings);
    }

    std::string path_;
    ContainerParts parts_;
    std::unordered_map<std::string_view, std::size_t> index_;  // views into parts_.tensors
    std::vector<Mapping> mappings_;
    std::vector<std::uint64_t> dropped_;  // bytes of each tensor's pages given back
    Charge charge_;                       // of the mappings
    Charge header_charge_;
};

}  // namespace

const TensorEntry& ModelFile::get(std::string_view name) const {
    if (const TensorEntry* entry = find(name)) return *entry;
    std::vector<std::string> names;
    for (const TensorEntry& entry : tensors()) names.push_back(entry.name);
    throw Error(Exit::kBadData, escaped(path(), 1024), "tensor '" + escaped(name) + "' is missing",
                did_you_mean(name, names));
}

std::unique_ptr<ModelFile> ModelFile::open(const std::string& path) {
    struct stat info {};
    const bool is_directory = ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
    ContainerParts parts = is_directory                     ? load_hugging_face(path)
                           : path.ends_with(".safetensors") ? load_safetensors(path)
                                                            : load_gguf(path);
    return std::make_unique<ShardedFile>(path, std::move(parts));
}

}  // namespace thimble
