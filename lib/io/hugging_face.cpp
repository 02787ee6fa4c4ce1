// SPDX-License-Identifier: Apache-2.0
// A Hugging Face directory (config.json + one safetensors file or an index of several), or a single
// .safetensors file. Pickle files are never opened.
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "core/error.h"
#include "core/strings.h"
#include "io/container.h"
#include "io/safetensors.h"

namespace thimble {
namespace {

constexpr std::uint64_t kMaxShards = 10'000;
constexpr std::string_view kSuffix = ".safetensors";

bool exists(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0;
}

SafetensorsHeader read_header(const File& file) {
    Cursor cursor(file, 8 + kSafetensorsMaxHeaderBytes);
    return parse_safetensors_header(cursor, file.bytes());
}

// Shard names come from the index: a plain file name, so that it stays in the directory. (The file
// itself may be a symbolic link, as in the hub's cache.)
bool is_plain_name(std::string_view name) {
    return name.size() > kSuffix.size() && name.size() <= 255 && name.ends_with(kSuffix) &&
           name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos &&
           name[0] != '.';
}

// Tensor -> shard file name, as the index says.
std::unordered_map<std::string, std::string> read_index(const std::string& path) {
    const Json index = read_json_file(path);
    const std::string where = escaped(path, 1024);
    const Json* map = index.find("weight_map");
    if (map == nullptr || !map->is_object()) {
        throw Error(Exit::kBadData, where, "'weight_map' must be an object");
    }
    std::unordered_map<std::string, std::string> shard_of;
    for (const auto& [tensor, file] : map->as_members(where)) {
        if (!file.is_string() || !is_plain_name(file.as_string(where))) {
            throw Error(Exit::kBadData, where,
                        "tensor '" + escaped(tensor) +
                            "': its file must be a plain name ending in .safetensors");
        }
        shard_of.emplace(tensor, file.as_string(where));
    }
    return shard_of;
}

void add_shard(ContainerParts& parts, const std::string& path) {
    File file(path);
    SafetensorsHeader header = read_header(file);
    for (TensorEntry& tensor : header.tensors) {
        tensor.shard = static_cast<int>(parts.shards.size());
        parts.tensors.push_back(std::move(tensor));
    }
    parts.shards.push_back(std::move(file));
}

void load_sharded(ContainerParts& parts, const std::string& directory, const std::string& index) {
    auto shard_of = read_index(index);
    std::map<std::string, int> shards;  // in the order of their names
    for (const auto& [tensor, file] : shard_of) shards.emplace(file, 0);
    if (shards.empty() || shards.size() > kMaxShards) {
        throw Error(Exit::kBadData, escaped(index, 1024),
                    std::to_string(shards.size()) + " shards; 1 to " + std::to_string(kMaxShards) +
                        " are accepted");
    }
    for (const auto& [name, unused] : shards) {
        const std::size_t first = parts.tensors.size();
        add_shard(parts, directory + "/" + name);
        for (std::size_t i = first; i < parts.tensors.size(); ++i) {
            const auto listed = shard_of.find(parts.tensors[i].name);
            if (listed == shard_of.end() || listed->second != name) {
                throw Error(Exit::kBadData, escaped(parts.shards.back().path(), 1024),
                            "tensor '" + escaped(parts.tensors[i].name) +
                                "' is not listed in the index for this shard");
            }
            shard_of.erase(listed);
        }
    }
    if (!shard_of.empty()) {
        const auto least = std::min_element(shard_of.begin(), shard_of.end());
        throw Error(Exit::kBadData, escaped(directory + "/" + least->second, 1024),
                    "tensor '" + escaped(least->first) + "' of the index is not in this shard");
    }
}

}  // namespace

ContainerParts load_safetensors(const std::string& path) {
    ContainerParts parts;
    parts.container = Container::kHuggingFace;
    const std::size_t slash = path.rfind('/');
    const std::string config =
        (slash == std::string::npos ? std::string() : path.substr(0, slash + 1)) + "config.json";
    if (exists(config)) parts.config = read_json_file(config);
    add_shard(parts, path);
    return parts;
}

ContainerParts load_hugging_face(const std::string& directory) {
    ContainerParts parts;
    parts.container = Container::kHuggingFace;
    const std::string config = directory + "/config.json";
    const std::string single = directory + "/model.safetensors";
    const std::string index = single + ".index.json";
    parts.config = read_json_file(config);
    if (!parts.config.is_object()) {
        throw Error(Exit::kBadData, escaped(config, 1024), "expected an object");
    }
    if (exists(single)) {
        add_shard(parts, single);
    } else if (exists(index)) {
        load_sharded(parts, directory, index);
    } else {
        throw Error(Exit::kNoInput, escaped(directory, 1024),
                    "neither model.safetensors nor model.safetensors.index.json is there",
                    "convert other weight files to safetensors first");
    }
    return parts;
}

}  // namespace thimble
