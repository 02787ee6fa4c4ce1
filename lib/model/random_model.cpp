// SPDX-License-Identifier: Apache-2.0
#include "model/random_model.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numbers>

#include "core/error.h"
#include "kernels/layout/rng.h"
#include "model/config.h"
#include "model/source.h"

namespace thimble {
namespace {

constexpr std::uint64_t kStream = std::uint64_t{3} << 56;  // apart from other users of a seed

class RandomModel final : public ModelFile {
  public:
    RandomModel(const std::string& path, std::uint64_t seed) : path_(path), seed_(seed) {
        namespace fs = std::filesystem;
        if (fs::is_directory(path_)) path_ = (fs::path(path_) / "config.json").string();
        config_ = read_json_file(path_);
        const Json* range = config_.find("initializer_range");
        if (range != nullptr) deviation_ = range->as_double(path_);
        const Architecture& architecture = architecture_of(*this);
        const ModelConfig numbers = read_config(*this, architecture);
        for (const TensorRule& rule : architecture.tensors) {
            const bool layered = rule.gguf.find('#') != std::string_view::npos;
            if (!exists(rule, architecture, numbers)) continue;
            for (std::int64_t layer = 0; layer < (layered ? numbers.layers : 1); ++layer)
                add(rule, layer, numbers);
        }
    }

    Container container() const noexcept override { return Container::kHuggingFace; }
    const std::string& path() const noexcept override { return path_; }
    const Metadata& metadata() const noexcept override { return metadata_; }
    const Json& config() const noexcept override { return config_; }
    const std::vector<TensorEntry>& tensors() const noexcept override { return tensors_; }
    const TensorEntry* find(std::string_view name) const noexcept override {
        const auto at = index_.find(name);
        return at == index_.end() ? nullptr : &tensors_[at->second];
    }
    std::vector<std::string> files() const override { return {path_}; }
    std::uint64_t file_bytes() const noexcept override {
        std::uint64_t sum = 0;
        for (const TensorEntry& tensor : tensors_) sum += tensor.bytes;
        return sum;
    }

    void read(const TensorEntry& tensor, std::uint64_t offset,
              std::span<std::byte> out) const override {
        const auto index = static_cast<std::size_t>(&tensor - tensors_.data());
        for (std::size_t i = 0; i < out.size(); i += sizeof(float)) {
            const float value = element(index, (offset + i) / sizeof(float));
            std::memcpy(out.data() + i, &value, sizeof(value));
        }
    }
    std::span<const std::byte> map(const TensorEntry& tensor) override {
        throw Error(Exit::kFailure, tensor.name, "is drawn at random: there is no file to map");
    }
    void drop_pages(const TensorEntry&) noexcept override {}

  private:
    bool exists(const TensorRule& rule, const Architecture& architecture,
                const ModelConfig& numbers) const {
        if (rule.hf.empty()) return false;
        if (rule.presence == Presence::kUntied) return !numbers.tied;
        if (rule.presence == Presence::kRequired) return true;
        for (const HfBiases& biases : architecture.hf_biases) {
            const Json* wanted = config_.find(biases.key);
            if (rule.gguf.starts_with(biases.gguf) && rule.gguf.ends_with(".bias") &&
                wanted != nullptr && wanted->as_bool(path_)) {
                return true;
            }
        }
        return false;
    }

    void add(const TensorRule& rule, std::int64_t layer, const ModelConfig& numbers) {
        TensorEntry entry;
        entry.name = tensor_name(rule.hf, layer);
        entry.dims = tensor_dims(rule, layer, numbers);
        entry.bytes = tensor_bytes(entry.type, entry.dims).value();
        const bool norm = rule.rows == Extent::kOne && !rule.gguf.ends_with(".bias");
        constants_.push_back(norm && rule.transform != HfTransform::kPlusOne ? 1.0f : 0.0f);
        index_.emplace(entry.name, tensors_.size());
        tensors_.push_back(std::move(entry));
    }

    // Box and Muller's pairs of normal numbers.
    [[nodiscard]] float element(std::size_t tensor, std::uint64_t e) const {
        if (tensors_[tensor].dims.size() == 1) return constants_[tensor];
        const Philox4 words = philox(seed_, e / 2, kStream + tensor);
        const double u = 1 - static_cast<double>(unit_float(words.v[0]));  // (0, 1]
        const double angle = 2 * std::numbers::pi * static_cast<double>(unit_float(words.v[1]));
        const double radius = deviation_ * std::sqrt(-2 * std::log(u));
        return static_cast<float>(radius * (e % 2 == 0 ? std::cos(angle) : std::sin(angle)));
    }

    std::string path_;
    std::uint64_t seed_;
    double deviation_ = 0.02;
    Json config_;
    Metadata metadata_;
    std::vector<TensorEntry> tensors_;
    std::vector<float> constants_;  // of vectors' elements
    std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace

std::unique_ptr<ModelFile> random_model(const std::string& config, std::uint64_t seed) {
    return std::make_unique<RandomModel>(config, seed);
}

}  // namespace thimble
