// SPDX-License-Identifier: Apache-2.0
// A GGUF model in one file or split over several ("name-00001-of-00003.gguf", keys split.*).
#include <array>
#include <cstdio>
#include <unordered_set>

#include "core/error.h"
#include "io/container.h"
#include "io/gguf.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxSplits = 10'000;

GgufHeader read_header(const File& file) {
    Cursor cursor(file, kGgufMaxHeaderBytes);
    return parse_gguf_header(cursor, file.bytes());
}

std::string split_suffix(std::int64_t number, std::int64_t count) {
    std::array<char, 48> text{};
    std::snprintf(text.data(), text.size(), "-%05lld-of-%05lld.gguf",
                  static_cast<long long>(number), static_cast<long long>(count));
    return text.data();
}

void append_tensors(ContainerParts& parts, GgufHeader& header, File file) {
    for (TensorEntry& tensor : header.tensors) {
        tensor.shard = static_cast<int>(parts.shards.size());
        parts.tensors.push_back(std::move(tensor));
    }
    parts.shards.push_back(std::move(file));
}

void check_tensors(const ContainerParts& parts, std::int64_t expected, const std::string& where) {
    if (parts.tensors.size() != static_cast<std::uint64_t>(expected)) {
        throw Error(Exit::kBadData, where,
                    "key 'split.tensors.count' says " + std::to_string(expected) +
                        " tensors, the parts hold " + std::to_string(parts.tensors.size()));
    }
    std::unordered_set<std::string_view> names;
    for (const TensorEntry& tensor : parts.tensors) {
        if (!names.insert(tensor.name).second) {
            throw Error(Exit::kBadData, where,
                        "tensor '" + escaped(tensor.name) + "' occurs in two parts");
        }
    }
}

// `parts` holds the first file; adds the others, which lie beside it.
void load_other_parts(ContainerParts& parts, const std::string& path, std::int64_t count) {
    const std::string where = escaped(path, 1024);
    const std::string first = split_suffix(1, count);
    if (!path.ends_with(first)) {
        throw Error(Exit::kUsage, where,
                    "the first of " + std::to_string(count) + " parts must be named ..." + first,
                    "give the first part, under its original name");
    }
    const std::string prefix = path.substr(0, path.size() - first.size());
    for (std::int64_t i = 1; i < count; ++i) {
        File file(prefix + split_suffix(i + 1, count));
        GgufHeader header = read_header(file);
        if (header.metadata.get_int(kGgufSplitNo, 0, kMaxSplits) != i ||
            header.metadata.get_int(kGgufSplitCount, 0, kMaxSplits) != count) {
            throw Error(Exit::kBadData, escaped(file.path(), 1024),
                        "keys 'split.no' and 'split.count' do not say part " +
                            std::to_string(i + 1) + " of " + std::to_string(count));
        }
        append_tensors(parts, header, std::move(file));
    }
}

}  // namespace

ContainerParts load_gguf(const std::string& path) {
    ContainerParts parts;
    File file(path);
    GgufHeader header = read_header(file);
    append_tensors(parts, header, std::move(file));
    parts.metadata = std::move(header.metadata);
    if (parts.metadata.find(kGgufSplitCount) != nullptr) {
        const std::int64_t count = parts.metadata.get_int(kGgufSplitCount, 0, kMaxSplits);
        if (count > 1) {
            if (parts.metadata.get_int(kGgufSplitNo, 0, kMaxSplits) != 0) {
                throw Error(Exit::kUsage, escaped(path, 1024), "this is not the first part",
                            "give the part whose name ends in " + split_suffix(1, count));
            }
            load_other_parts(parts, path, count);
            check_tensors(parts, parts.metadata.get_int(kGgufSplitTensors, 0, INT32_MAX),
                          escaped(path, 1024));
        }
    }
    for (const std::string_view key : kGgufSplitKeys) parts.metadata.erase(key);
    return parts;
}

}  // namespace thimble
