// SPDX-License-Identifier: Apache-2.0
// Writes a Hugging Face directory: weights as safetensors (shards of bounded size with an index)
// and the files beside them, all of it or nothing.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors_writer.h"

namespace thimble {

using TextSink = std::function<void(std::string_view)>;

// A file beside the weights. `write` gives the same `bytes` bytes each time, in pieces.
struct SideFile {
    std::string name;
    std::uint64_t bytes = 0;
    std::function<void(const TextSink&)> write;
};
// Of a text, and of one that is made piece by piece: it is made once to know its size.
[[nodiscard]] SideFile side_file(std::string name, std::string text);
[[nodiscard]] SideFile side_file(std::string name, std::function<void(const TextSink&)> write);
// All files of a directory but weights and hidden ones, as they are, by name.
[[nodiscard]] std::vector<SideFile> side_files_of(const std::string& directory);

// The weights are to be predicted apart: SafetensorsWriter::predict.
[[nodiscard]] std::uint64_t total_bytes(const std::vector<SideFile>& files) noexcept;
inline constexpr std::size_t kSideBufferBytes = std::size_t{64} << 10;  // while they are written

class HfDirectoryWriter final : public TensorWriter {
  public:
    // Throws what SafetensorsWriter and AtomicDirectory throw.
    HfDirectoryWriter(const std::string& path, std::vector<TensorSpec> tensors,
                      const std::vector<SideFile>& files, const SafetensorsOptions& options);
    ~HfDirectoryWriter() override;
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override;
    void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) override;
    void finish() override;
    [[nodiscard]] Position start() const noexcept override;
    void checkpoint(Position position) override;
    void abandon() noexcept override;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
