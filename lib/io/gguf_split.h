// SPDX-License-Identifier: Apache-2.0
// Writes one GGUF model as several files, "prefix-00001-of-00003.gguf" and so on, as
// llama-gguf-split does: every key of the model in the first, split.no, split.count and
// split.tensors.count in each, tensors in their order.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/gguf_writer.h"

namespace thimble {

struct GgufSplit {
    std::uint64_t max_bytes = 0;    // of tensor data in one file; a larger tensor has its own
    std::uint64_t max_tensors = 0;  // in one file; 0, as above: no limit
    bool empty_first = false;       // the first file holds the metadata only
    [[nodiscard]] bool wanted() const noexcept { return max_bytes > 0 || max_tensors > 0; }
};

// ".../name-00001-of-00003.gguf"; `number` counts from one.
[[nodiscard]] std::string gguf_part_path(const std::string& prefix, std::size_t number,
                                         std::size_t count);

// What is written into each file.
struct GgufParts {
    struct Part {
        std::string path;
        Metadata metadata;
        std::vector<TensorSpec> tensors;
        std::uint64_t file_bytes = 0, header_bytes = 0;
    };
    std::vector<Part> parts;
    static constexpr std::size_t kMost = 512;  // all are open at once

    // Throws kUsage when there would be more than kMost, and kBadData as GgufWriter does.
    GgufParts(const std::string& prefix, const Metadata& metadata,
              std::span<const TensorSpec> tensors, const GgufSplit& split);
    [[nodiscard]] std::uint64_t file_bytes() const noexcept;    // of all together
    [[nodiscard]] std::uint64_t header_bytes() const noexcept;  // of the largest
    [[nodiscard]] std::vector<std::string> paths() const;
};

class GgufSplitWriter final : public TensorWriter {
  public:
    // `build`: as GgufWriter takes it.
    GgufSplitWriter(GgufParts parts, IfExists if_exists, std::string_view build = {});
    ~GgufSplitWriter() override;
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override;
    // Tensors are counted through all files.
    void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) override;
    // The first file appears last: without it the others are not a model.
    void finish() override;
    [[nodiscard]] Position start() const noexcept override;
    void checkpoint(Position position) override;
    void abandon() noexcept override;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
