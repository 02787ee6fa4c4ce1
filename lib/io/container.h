// SPDX-License-Identifier: Apache-2.0
// What a container's parser hands to ModelFile: checked tables and open shards.
#pragma once

#include "io/file.h"
#include "io/model_file.h"

namespace thimble {

struct ContainerParts {
    Container container = Container::kGguf;
    Metadata metadata;
    Json config;
    std::vector<TensorEntry> tensors;
    std::vector<File> shards;
};

[[nodiscard]] ContainerParts load_gguf(const std::string& path);
[[nodiscard]] ContainerParts load_safetensors(const std::string& path);
[[nodiscard]] ContainerParts load_hugging_face(const std::string& directory);

}  // namespace thimble
