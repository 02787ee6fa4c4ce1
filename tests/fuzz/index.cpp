// SPDX-License-Identifier: Apache-2.0
// Any bytes as the index of a sharded model: an Error, or the tensors of the shards it names.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "io/model_file.h"
#include "io/safetensors_writer.h"

using namespace thimble;

namespace {

// A directory with a good config and two shards: a (3 bytes), b (4 bytes).
struct Directory {
    std::string path = (std::filesystem::temp_directory_path() / "thimble-fuzz-XXXXXX").string();
    std::string index;
    Directory() {
        if (::mkdtemp(path.data()) == nullptr) std::abort();
        SafetensorsOptions options;
        options.max_shard_bytes = 1;
        const std::string model = path + "/model";
        SafetensorsWriter writer(model, {{"a", TensorType::kU8, {3}}, {"b", TensorType::kF32, {1}}},
                                 options);
        writer.write(0, 0, std::vector<std::byte>(3));
        writer.write(1, 0, std::vector<std::byte>(4));
        writer.finish();
        std::ofstream(model + "/config.json") << "{\"model_type\": \"llama\"}";
        path = model;
        index = model + "/model.safetensors.index.json";
    }
    ~Directory() {
        std::error_code none;
        std::filesystem::remove_all(std::filesystem::path(path).parent_path(), none);
    }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Directory directory;
    std::ofstream(directory.index, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    try {
        const auto file = ModelFile::open(directory.path);
        const auto& tensors = file->tensors();
        if (tensors.empty() || tensors.size() != file->files().size()) std::abort();
        for (const TensorEntry& tensor : tensors) {
            if (tensor.bytes != (tensor.name == "a" ? 3u : 4u)) std::abort();
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData && e.exit() != Exit::kNoInput) std::abort();
    }
    return 0;
}
