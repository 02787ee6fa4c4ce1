// SPDX-License-Identifier: Apache-2.0
// A model container that lies in memory, for targets whose parser wants a ModelFile.
#pragma once

#include <cstring>

#include "core/error.h"
#include "io/gguf.h"
#include "io/safetensors.h"

namespace thimble::fuzz {

class MemoryModel final : public ModelFile {
  public:
    // A GGUF file's bytes, or a Hugging Face config without tensors.
    explicit MemoryModel(std::span<const std::byte> gguf) : bytes_(gguf) {
        Cursor cursor(gguf, path_);
        GgufHeader header = parse_gguf_header(cursor, gguf.size());
        metadata_ = std::move(header.metadata);
        tensors_ = std::move(header.tensors);
    }
    explicit MemoryModel(Json config)
        : container_(Container::kHuggingFace), config_(std::move(config)) {}
    // The same with the bytes of a safetensors file.
    MemoryModel(Json config, std::span<const std::byte> safetensors)
        : container_(Container::kHuggingFace), bytes_(safetensors), config_(std::move(config)) {
        Cursor cursor(safetensors, path_);
        tensors_ = parse_safetensors_header(cursor, safetensors.size()).tensors;
    }
    explicit MemoryModel(Metadata metadata) : metadata_(std::move(metadata)) {}

    [[nodiscard]] Container container() const noexcept override { return container_; }
    [[nodiscard]] const std::string& path() const noexcept override { return path_; }
    [[nodiscard]] const Metadata& metadata() const noexcept override { return metadata_; }
    [[nodiscard]] const Json& config() const noexcept override { return config_; }
    [[nodiscard]] const std::vector<TensorEntry>& tensors() const noexcept override {
        return tensors_;
    }
    [[nodiscard]] const TensorEntry* find(std::string_view name) const noexcept override {
        for (const TensorEntry& tensor : tensors_) {
            if (tensor.name == name) return &tensor;
        }
        return nullptr;
    }
    [[nodiscard]] std::vector<std::string> files() const override { return {path_}; }
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override { return bytes_.size(); }
    void read(const TensorEntry& tensor, std::uint64_t offset,
              std::span<std::byte> out) const override {
        std::memcpy(out.data(), bytes_.subspan(tensor.offset + offset, out.size()).data(),
                    out.size());
    }
    [[nodiscard]] std::span<const std::byte> map(const TensorEntry& tensor) override {
        return bytes_.subspan(tensor.offset, tensor.bytes);
    }
    void drop_pages(const TensorEntry&) noexcept override {}

  private:
    Container container_ = Container::kGguf;
    std::string path_ = "fuzz";
    std::span<const std::byte> bytes_;
    Metadata metadata_;
    Json config_;
    std::vector<TensorEntry> tensors_;
};

}  // namespace thimble::fuzz
