// SPDX-License-Identifier: Apache-2.0
// Writes tensors as safetensors: one file, or shards of bounded size with their index. Bounded
// memory; every file appears whole, the index last.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "io/atomic_file.h"
#include "io/model_file.h"
#include "io/tensor_writer.h"

namespace thimble {

struct SafetensorsOptions {
    JsonMembers metadata = {{"format", Json("pt")}};  // strings only
    std::uint64_t max_shard_bytes = 5'000'000'000;    // of data; a larger tensor has its own shard
    IfExists if_exists = IfExists::kRefuse;
    std::string build;  // other than "": makes checkpoints, as GgufWriter does
};

class SafetensorsWriter final : public TensorWriter {
  public:
    // A path ending in .safetensors is one file. Any other is a directory, made if absent, for
    // model.safetensors or, past max_shard_bytes, model-00001-of-0000N.safetensors and the index.
    // Throws kBadData (a name or type the container cannot hold), kUsage (more than kMostShards),
    // kCannotCreate or kIo.
    SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                      const SafetensorsOptions& options);
    ~SafetensorsWriter() override;
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override;
    void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) override;
    void finish() override;
    [[nodiscard]] Position start() const noexcept override;
    void checkpoint(Position position) override;
    void abandon() noexcept override;

    // What would be written.
    struct Prediction {
        std::uint64_t file_bytes = 0;
        std::uint64_t header_bytes = 0;  // of the largest header or index: held while it is written
        std::vector<std::string> shards;  // names of the files
    };
    static constexpr std::size_t kMostShards = 512;  // all are open at once
    [[nodiscard]] static Prediction predict(const std::string& path,
                                            std::span<const TensorSpec> tensors,
                                            const SafetensorsOptions& options);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
